package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	restclient "k8s.io/client-go/rest"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criTarget is a runtime's own endpoint, with pods that this program made there.
type criTarget struct {
	options
	conn    *grpc.ClientConn
	service cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	name    string // the runtime says of itself
	socket  string
	logs    string

	mu         sync.Mutex
	pods       map[string]*criPod
	containers map[string]string // fixture's name -> id
	attempts   uint32
}

type criPod struct {
	id     string
	config *cri.PodSandboxConfig
}

// dialCRI connects; nothing is asked yet. The authority is the one that the kubelet's client sends.
func dialCRI(endpoint string) (*grpc.ClientConn, error) {
	return grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
}

func openCRI(ctx context.Context, o options) (_ target, err error) {
	conn, err := dialCRI(o.endpoint)
	if err != nil {
		return nil, err
	}
	c := &criTarget{options: o, conn: conn, service: cri.NewRuntimeServiceClient(conn), images: cri.NewImageServiceClient(conn),
		socket: strings.TrimPrefix(o.endpoint, "unix://"), pods: map[string]*criPod{}, containers: map[string]string{}}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.logs = o.logs; c.logs == "" {
		if c.logs, err = os.MkdirTemp("", "streams-logs."); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	v, err := c.service.Version(ctx, &cri.VersionRequest{})
	if err != nil {
		return nil, fmt.Errorf("Version: %w", err)
	}
	c.name = v.RuntimeName
	if _, err = c.images.PullImage(ctx, &cri.PullImageRequest{Image: c.imageSpec()}); err != nil {
		return nil, fmt.Errorf("PullImage %s: %w", o.image, err)
	}
	for _, pod := range []string{"main", "host"} {
		if err = c.runPod(ctx, pod); err != nil {
			return nil, err
		}
	}
	for _, f := range fixtures {
		if c.containers[f.name], err = c.create(ctx, f); err != nil {
			return nil, err
		}
	}
	for container, port := range map[string]int{"shell": firstPort, "host": hostPort} {
		command := []string{inContainerPath, "in-container", "wait", "--port", fmt.Sprint(port)}
		if _, err = c.execSync(ctx, c.containers[container], command...); err != nil {
			return nil, fmt.Errorf("the server in the container %q: %w", container, err)
		}
	}
	return c, nil
}

func (c *criTarget) imageSpec() *cri.ImageSpec {
	return &cri.ImageSpec{Image: c.image, UserSpecifiedImage: c.image}
}

func (c *criTarget) namespaces(host bool) *cri.NamespaceOption {
	n := &cri.NamespaceOption{Network: cri.NamespaceMode_POD, Pid: cri.NamespaceMode_CONTAINER}
	if host {
		n.Network = cri.NamespaceMode_NODE
	}
	return n
}

// runPod makes the pod of that name anew.
func (c *criTarget) runPod(ctx context.Context, name string) error {
	c.mu.Lock()
	c.attempts++
	uid := fmt.Sprintf("streams-%s-%d-%d", name, os.Getpid(), c.attempts)
	c.mu.Unlock()
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "streams-" + name, Namespace: "test", Uid: uid},
		LogDirectory: filepath.Join(c.logs, uid),
		Linux: &cri.LinuxPodSandboxConfig{CgroupParent: c.cgroup,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: c.namespaces(name == "host")}},
	}
	if name != "host" {
		config.Hostname = "streams"
	}
	r, err := c.service.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: c.handler})
	if err != nil {
		return fmt.Errorf("RunPodSandbox %s: %w", name, err)
	}
	c.mu.Lock()
	c.pods[name] = &criPod{r.PodSandboxId, config}
	c.mu.Unlock()
	return nil
}

// create makes and starts a container in its pod; its id.
func (c *criTarget) create(ctx context.Context, s containerSpec) (string, error) {
	c.mu.Lock()
	c.attempts++
	attempt := c.attempts
	pod := c.pods["main"]
	if s.ofHost {
		pod = c.pods["host"]
	}
	c.mu.Unlock()
	r, err := c.service.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: pod.id, SandboxConfig: pod.config,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: s.name, Attempt: attempt}, Image: c.imageSpec(), Command: s.command,
			LogPath: fmt.Sprintf("%s-%d.log", s.name, attempt), Stdin: s.stdin, StdinOnce: s.stdinOnce, Tty: s.tty,
			Mounts: []*cri.Mount{{HostPath: c.self, ContainerPath: inContainerPath, Readonly: true}},
			Linux: &cri.LinuxContainerConfig{Resources: &cri.LinuxContainerResources{CpuShares: 1024},
				SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: c.namespaces(s.ofHost)}},
		},
	})
	if err != nil {
		return "", fmt.Errorf("CreateContainer %s: %w", s.name, err)
	}
	if _, err = c.service.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		return "", fmt.Errorf("StartContainer %s: %w", s.name, err)
	}
	return r.ContainerId, nil
}

func (c *criTarget) remove(id string) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, _ = c.service.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id})
	_, _ = c.service.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
}

// state is a container's, and its exit code.
func (c *criTarget) state(ctx context.Context, id string) (cri.ContainerState, int32, error) {
	r, err := c.service.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return 0, 0, err
	}
	return r.Status.State, r.Status.ExitCode, nil
}

// execSync runs a command by the CRI alone, which is how cases look into a container beside the streams.
func (c *criTarget) execSync(ctx context.Context, id string, command ...string) (string, error) {
	r, err := c.service.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 30})
	if err != nil {
		return "", err
	}
	if r.ExitCode != 0 {
		return string(r.Stdout), fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
	}
	return string(r.Stdout), nil
}

// id of a fixture's container; what is no fixture is an id itself.
func (c *criTarget) id(container string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id := c.containers[container]; id != "" {
		return id
	}
	return container
}

func (c *criTarget) exec(ctx context.Context, container string, command []string, s streamSet) (*url.URL, error) {
	r, err := c.service.Exec(ctx, &cri.ExecRequest{ContainerId: c.id(container), Cmd: command,
		Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Tty: s.tty})
	if err != nil {
		return nil, err
	}
	return url.Parse(r.Url)
}

func (c *criTarget) attach(ctx context.Context, container string, s streamSet) (*url.URL, error) {
	r, err := c.service.Attach(ctx, &cri.AttachRequest{ContainerId: c.id(container),
		Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Tty: s.tty})
	if err != nil {
		return nil, err
	}
	return url.Parse(r.Url)
}

func (c *criTarget) forward(ctx context.Context, pod string, ports ...int32) (*url.URL, error) {
	id := pod
	c.mu.Lock()
	if p := c.pods[pod]; p != nil {
		id = p.id
	}
	c.mu.Unlock()
	r, err := c.service.PortForward(ctx, &cri.PortForwardRequest{PodSandboxId: id, Port: ports})
	if err != nil {
		return nil, err
	}
	return url.Parse(r.Url)
}

// config: a streaming server authenticates by its tokens alone; if it has TLS, the certificate is its own.
func (c *criTarget) config() *restclient.Config {
	return &restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
}

func (c *criTarget) excuse(cc chosenCase) string { return excuse(c.name, true, cc) }

// close removes the pods.
func (c *criTarget) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for name, p := range c.pods {
		_, err := c.service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		if err == nil {
			_, err = c.service.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "streams: the pod %s is left: %v\n", name, err)
		}
	}
	if c.options.logs == "" && c.logs != "" {
		_ = os.RemoveAll(c.logs)
	}
	_ = c.conn.Close()
}

// peerPID is the process that serves the CRI's socket.
func (c *criTarget) peerPID() (int, error) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer syscall.Close(fd)
	if err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: c.socket}); err != nil {
		return 0, err
	}
	cred, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

var errNotCRI = errors.New("this case needs the runtime's own endpoint")
