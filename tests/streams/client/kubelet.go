package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	restclient "k8s.io/client-go/rest"
)

// kubeletTarget is a kubelet's own server in front of the runtime; its pods come from --manifest.
type kubeletTarget struct {
	options
	base            *url.URL
	namespace, node string
}

// printManifest writes the static pods into the working directory, one JSON file each.
func printManifest(o options) int {
	file, grace := core.HostPathFile, int64(1)
	for _, name := range []string{"main", "host"} {
		pod := core.Pod{
			TypeMeta:   meta.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: meta.ObjectMeta{Name: "streams-" + name, Namespace: "default"},
			Spec: core.PodSpec{
				HostNetwork: name == "host", TerminationGracePeriodSeconds: &grace,
				Volumes: []core.Volume{{Name: "self", VolumeSource: core.VolumeSource{
					HostPath: &core.HostPathVolumeSource{Path: o.self, Type: &file}}}},
			},
		}
		for _, f := range fixtures {
			if f.ofHost != (name == "host") {
				continue
			}
			pod.Spec.Containers = append(pod.Spec.Containers, core.Container{
				Name: f.name, Image: o.image, Command: f.command, Stdin: f.stdin, StdinOnce: f.stdinOnce, TTY: f.tty,
				ImagePullPolicy: core.PullIfNotPresent,
				VolumeMounts:    []core.VolumeMount{{Name: "self", MountPath: inContainerPath, ReadOnly: true}},
			})
		}
		text, err := json.MarshalIndent(pod, "", " ")
		if err != nil {
			fatal("%v", err)
		}
		if err = os.WriteFile(fmt.Sprintf("streams-%s.json", name), text, 0o644); err != nil {
			fatal("%v", err)
		}
	}
	return 0
}

func openKubelet(ctx context.Context, o options) (target, error) {
	base, err := url.Parse(o.kubelet)
	if err != nil {
		return nil, fmt.Errorf("--kubelet: %w", err)
	}
	k := &kubeletTarget{options: o, base: base}
	var found bool
	// A static pod's name ends with that of its node.
	if k.namespace, k.node, found = strings.Cut(o.pod, "/"); !found {
		return nil, fmt.Errorf("--pod: NAMESPACE/NODE, not %q", o.pod)
	}
	e := &env{target: k, over: spdy, options: o}
	for container, port := range map[string]int{"shell": firstPort, "host": hostPort} {
		command := []string{inContainerPath, "in-container", "wait", "--port", fmt.Sprint(port)}
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		_, err := e.output(ctx, container, command...)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("the server in the container %q: %w", container, err)
		}
	}
	return k, nil
}

// podOf is the API's name of the pod that a container is in.
func (k *kubeletTarget) podOf(container string) string {
	for _, f := range fixtures {
		if f.name == container && f.ofHost {
			return "streams-host-" + k.node
		}
	}
	return "streams-main-" + k.node
}

func (k *kubeletTarget) address(verb, container string, s streamSet, command []string) *url.URL {
	u := k.base.JoinPath(verb, k.namespace, k.podOf(container), container)
	q := url.Values{}
	for name, on := range map[string]bool{"input": s.stdin, "output": s.stdout, "error": s.stderr, "tty": s.tty} {
		if on {
			q.Set(name, "1")
		}
	}
	for _, word := range command {
		q.Add("command", word)
	}
	u.RawQuery = q.Encode()
	return u
}

func (k *kubeletTarget) exec(_ context.Context, container string, command []string, s streamSet) (*url.URL, error) {
	return k.address("exec", container, s, command), nil
}

func (k *kubeletTarget) attach(_ context.Context, container string, s streamSet) (*url.URL, error) {
	return k.address("attach", container, s, nil), nil
}

func (k *kubeletTarget) forward(_ context.Context, pod string, ports ...int32) (*url.URL, error) {
	u := k.base.JoinPath("portForward", k.namespace, "streams-"+pod+"-"+k.node)
	q := url.Values{}
	for _, p := range ports {
		q.Add("port", strconv.Itoa(int(p)))
	}
	u.RawQuery = q.Encode()
	return u, nil
}

// containerLogs reads the kubelet's /containerLogs.
func (k *kubeletTarget) containerLogs(ctx context.Context, container, query string) (io.ReadCloser, error) {
	u := k.base.JoinPath("containerLogs", k.namespace, k.podOf(container), container)
	u.RawQuery = query
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	r, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		r.Body.Close()
		return nil, fmt.Errorf("%s: %s", r.Status, text)
	}
	return r.Body, nil
}

// config: the kubelet of the test lets anybody in on its loopback, and its certificate is its own.
func (k *kubeletTarget) config() *restclient.Config {
	return &restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
}

func (k *kubeletTarget) excuse(c chosenCase) string { return excuse(k.runtime, false, c) }

func (k *kubeletTarget) close() {}
