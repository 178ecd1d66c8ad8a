package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strconv"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What sessions leave behind, and what becomes of them.
var lifeCases = []testCase{
	{name: "client-killed", needs: onCRI, run: clientKilled},
	{name: "client-killed-children", needs: onCRI, run: clientKilledChildren},
	{name: "client-killed-on-tty", needs: onCRI, run: clientKilledTTY},
	{name: "client-killed-nohup", needs: onCRI, run: clientKilledNohup},
	{name: "client-cancelled", needs: onCRI, run: clientCancelled},
	{name: "container-stopped", needs: onCRI, limit: 2 * time.Minute, run: containerStopped},
	{name: "pod-stopped", needs: onCRI, limit: 2 * time.Minute, run: podStopped},
	{name: "sequence-leaves-nothing", needs: onCRI, limit: 5 * time.Minute, run: sequence},
	{name: "execsync-rate", needs: onCRI | spdyOnly, limit: 3 * time.Minute, run: execSyncRate},
	{name: "logs-follow", needs: onKubelet | spdyOnly, run: logsFollow},
}

// killClient runs a session in a process of its own, waits for its first line, and kills it.
func (e *env) killClient(ctx context.Context, s session) error {
	u, err := e.address(ctx, withInput(s))
	if err != nil {
		return err
	}
	args := []string{"hold", "--url", u.String(), "--transport", string(e.over)}
	if s.tty {
		args = append(args, "--tty")
	}
	client := exec.CommandContext(ctx, e.self, args...)
	in, err := client.StdinPipe()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := client.StdoutPipe()
	if err != nil {
		return err
	}
	if err = client.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_ = client.Process.Kill()
	_ = client.Wait()
	if err != nil || strings.TrimSpace(line) != "begun" {
		return fmt.Errorf("the session began with %q: %w", line, err)
	}
	return nil
}

// runs: a process of the container has this command line.
func (e *env) runs(ctx context.Context, command string) error {
	text, err := e.cri().execSync(ctx, e.cri().id("shell"), "ps", "-o", "args")
	if err == nil && !strings.Contains(text, command) {
		err = fmt.Errorf("%q does not run: %q", command, text)
	}
	return err
}

// What a client has started does not outlive it: neither what waits, nor what reads, nor what writes. (What ignores
// SIGHUP does, and is meant to.)
func clientKilled(ctx context.Context, e *env) error {
	return e.killedWith(ctx, "9595", false, "echo begun; exec sleep 9595", "echo begun; exec cat - /9595", "echo begun; exec yes 9595")
}

// Nor do its children.
func clientKilledChildren(ctx context.Context, e *env) error {
	return e.killedWith(ctx, "9599", false, "echo begun; sh -c 'sleep 9599; true'; true", "sleep 9599 & echo begun; wait")
}

func clientKilledTTY(ctx context.Context, e *env) error {
	return e.killedWith(ctx, "9696", true, "echo begun; exec sleep 9696", "echo begun; sleep 9696; true")
}

// What says that it is to live on does, as after any terminal that hangs up.
func clientKilledNohup(ctx context.Context, e *env) error {
	if err := e.killClient(ctx, session{container: "shell", command: []string{"sh", "-c", "trap '' HUP; echo begun; exec sleep 9698"}, tty: true}); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	if err := e.runs(ctx, "sleep 9698"); err != nil {
		return err
	}
	if _, err := e.cri().execSync(ctx, e.cri().id("shell"), "sh", "-c", "kill -KILL $(pgrep sleep)"); err != nil {
		return err
	}
	return e.gone(ctx, "sleep 9698")
}

func (e *env) killedWith(ctx context.Context, word string, tty bool, scripts ...string) error {
	for _, script := range scripts {
		if err := e.killClient(ctx, session{container: "shell", command: []string{"sh", "-c", script}, tty: tty}); err != nil {
			return err
		}
		if err := e.gone(ctx, word); err != nil {
			return fmt.Errorf("%q: %w", script, err)
		}
	}
	return nil
}

// A client that closes its connection in good order is as gone as one that was killed.
func clientCancelled(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", command: []string{"sh", "-c", "echo begun; exec sleep 9797"}})
	if err != nil {
		return err
	}
	if err = errors.Join(c.hear(ctx, "begun"), e.runs(ctx, "sleep 9797")); err != nil {
		return err
	}
	c.stop()
	<-c.done
	return e.gone(ctx, "sleep 9797")
}

// A container that is stopped ends the sessions in it, whose clients learn of it.
func containerStopped(ctx context.Context, e *env) error {
	id, err := e.fresh(ctx, containerSpec{name: "stopped", command: []string{"sleep", "10000"}, stdin: true})
	if err != nil {
		return err
	}
	run, err := e.converse(ctx, session{container: id, command: []string{"sh", "-c", "echo begun; exec sleep 10000"}})
	if err != nil {
		return err
	}
	if err = run.hear(ctx, "begun"); err != nil {
		return err
	}
	attached, err := e.converse(ctx, session{container: id})
	if err != nil {
		return err
	}
	time.Sleep(200 * time.Millisecond) // attach has no word of its own that it is there
	if _, err = e.cri().service.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id}); err != nil {
		return err
	}
	end, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if err = wantCode(run.end(end), 137); err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	_ = attached.end(end)
	if end.Err() != nil {
		return errors.New("attach does not end with its container")
	}
	return nil
}

// A pod that is stopped ends its port-forwards.
func podStopped(ctx context.Context, e *env) error {
	c := e.cri()
	if err := c.runPod(ctx, "third"); err != nil {
		return err
	}
	pod := c.pods["third"]
	e.later(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _ = c.service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.id})
		_, _ = c.service.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.id})
		c.mu.Lock()
		delete(c.pods, "third")
		c.mu.Unlock()
	})
	p, err := e.pairs4(ctx, "third")
	if err != nil {
		return err
	}
	if _, err = c.service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.id}); err != nil {
		return err
	}
	// The session may end with the pod; if it stays, a connection through it is an error, never somebody else's port.
	errs, _, err := p.open(port(firstPort, portEcho))
	if err == nil {
		said, err := readAll(ctx, errs)
		if err == nil && len(said) == 0 {
			return errors.New("a connection into a stopped pod is no error")
		}
	}
	u, err := e.target.forward(ctx, "third")
	if err != nil {
		return nil // refused at once
	}
	return e.refusedForward(ctx, u)
}

func (e *env) pairs4(ctx context.Context, pod string) (*pairs, error) {
	p, err := e.pairs(ctx, pod)
	if err != nil {
		return nil, err
	}
	errs, _, err := p.open(port(firstPort, portNothing))
	if err != nil {
		return nil, err
	}
	said, err := readAll(ctx, errs)
	if err == nil && !strings.Contains(string(said), "refused") {
		err = fmt.Errorf("the error stream says %q", said)
	}
	return p, err
}

func (e *env) refusedForward(ctx context.Context, u *url.URL) error {
	d, err := e.dialer(u)
	if err != nil {
		return err
	}
	c, _, err := d.Dial("portforward.k8s.io")
	if err != nil {
		return nil
	}
	defer c.Close()
	errs, _, err := (&pairs{Connection: c}).open(port(firstPort, portEcho))
	if err != nil {
		return nil
	}
	if said, err := readAll(ctx, errs); err == nil && len(said) == 0 {
		return errors.New("port-forward to a stopped pod is no error")
	}
	return nil
}

// Sessions by the thousand leave no descriptor, no process and no memory.
func sequence(ctx context.Context, e *env) error {
	const most = 6 << 10 // kB; a collected heap has its moods
	c := e.cri()
	one := func(int) error {
		_, err := e.output(ctx, "shell", "true")
		return err
	}
	if err := repeated(100, e.threads, one); err != nil { // what is made at first use is there
		return err
	}
	time.Sleep(time.Second)
	fds, err := c.descriptors()
	if err != nil {
		return err
	}
	pids, err := c.processes()
	if err != nil {
		return err
	}
	kb, _ := e.memory()
	if err = repeated(e.repeat, e.threads, one); err != nil {
		return err
	}
	if err = c.descriptorsAre(ctx, fds, 10*time.Second); err != nil {
		return err
	}
	if err = until(ctx, "as many processes as before", 10*time.Second, func() error {
		now, err := c.processes()
		if err == nil && len(now) > len(pids) {
			err = fmt.Errorf("%d, not %d", len(now), len(pids))
		}
		return err
	}); err != nil {
		return err
	}
	if now, _ := e.memory(); now > kb+most {
		return fmt.Errorf("after %d sessions the runtime has %d kB, not %d", e.repeat, now, kb)
	}
	return noZombies(pids)
}

// noZombies: none of these processes has a dead child that nobody has waited for.
func noZombies(parents []int) error {
	for _, pid := range allPIDs() {
		state, ppid, name := processState(pid)
		for _, p := range parents {
			if state == "Z" && ppid == p {
				return fmt.Errorf("%s (%d), a child of %d, is a zombie", name, pid, p)
			}
		}
	}
	return nil
}

// Probes at 200 a second: all are answered in time, and nothing of them stays.
func execSyncRate(ctx context.Context, e *env) error {
	const rate, atOnce, most = 200, 64, 6 << 10
	c := e.cri()
	id := c.id("shell")
	if _, err := c.execSync(ctx, id, "true"); err != nil {
		return err
	}
	before, _ := e.memory()
	fds, err := c.descriptors()
	if err != nil {
		return err
	}
	count := int(e.probes.Seconds() * rate)
	began := time.Now()
	err = repeated(count, atOnce, func(i int) error {
		time.Sleep(time.Until(began.Add(time.Duration(i) * time.Second / rate)))
		_, err := c.execSync(ctx, id, "true")
		return err
	})
	if err != nil {
		return err
	}
	if took := time.Since(began); took > 2*e.probes {
		return fmt.Errorf("%d probes took %s, not %s", count, took, e.probes)
	}
	pids, err := c.processes()
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	if after, _ := e.memory(); after > before+most {
		return fmt.Errorf("after %d probes the runtime has %d kB, not %d", count, after, before)
	}
	return errors.Join(c.descriptorsAre(ctx, fds, 10*time.Second), noZombies(pids))
}

// logsFollow reads a container's log as a kubelet serves it.
func logsFollow(ctx context.Context, e *env) error {
	k := e.target.(*kubeletTarget)
	r, err := k.containerLogs(ctx, "talker", "follow=true&tailLines=0")
	if err != nil {
		return err
	}
	defer r.Close()
	lines := bufio.NewReader(r)
	last := 0
	for n := 0; n < 30; {
		line, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		number, isLine := strings.CutPrefix(strings.TrimSpace(line), "line ")
		if !isLine {
			continue
		}
		i, err := strconv.Atoi(number)
		if err != nil || last != 0 && i != last+1 {
			return fmt.Errorf("after line %d comes %q", last, line)
		}
		last = i
		n++
	}
	all, err := k.containerLogs(ctx, "talker", "")
	if err != nil {
		return err
	}
	defer all.Close()
	text, err := io.ReadAll(all)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(text), "line 1\n") && !strings.HasPrefix(string(text), "even 1\n") {
		return fmt.Errorf("the log begins with %q", shorten(string(text)))
	}
	return nil
}
