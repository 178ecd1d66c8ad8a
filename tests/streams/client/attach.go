package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var attachCases = []testCase{
	{name: "attach-output", run: attachOutput},
	{name: "attach-stdin", run: attachStdin},
	{name: "attach-stdin-kept-open", needs: halfClose, run: attachKept},
	{name: "attach-several", run: attachSeveral},
	{name: "attach-tty", run: attachTTY},
	{name: "attach-detach", run: attachDetach},
	{name: "attach-stdin-once", needs: halfClose | onCRI, run: attachOnce},
	{name: "attach-stdin-once-vanished", needs: onCRI, run: attachOnceVanished},
	{name: "attach-exit", needs: onCRI, run: attachExit},
	{name: "attach-one-stream", run: attachOne},
	{name: "attach-exited", needs: onCRI, run: attachExited},
	{name: "attach-slow-reader", needs: onCRI | spdyOnly, limit: 2 * time.Minute, run: attachSlow},
}

// follow checks that the numbered lines have no hole; how many there are.
func follow(text, word string) (int, error) {
	lines := strings.Split(text, "\n")
	first, n := 0, 0
	for _, line := range lines[:len(lines)-1] { // what follows the last line's end is half a line
		var i int
		if _, err := fmt.Sscanf(line, word+" %d", &i); err != nil || fmt.Sprintf("%s %d", word, i) != line {
			if n == 0 {
				continue // the first may be cut
			}
			return n, fmt.Errorf("a line is %q", line)
		}
		if n == 0 {
			first = i
		} else if i != first+n {
			return n, fmt.Errorf("after line %d comes %d", first+n-1, i)
		}
		n++
	}
	return n, nil
}

// watch attaches to the talker without an input, which it does not have.
func (e *env) watch(ctx context.Context) (*conversation, error) {
	u, err := e.target.attach(ctx, "talker", streamSet{stdout: true, stderr: true})
	if err != nil {
		return nil, err
	}
	return e.converseAt(ctx, u, session{container: "talker", mute: true})
}

func attachOutput(ctx context.Context, e *env) error {
	c, err := e.watch(ctx)
	if err != nil {
		return err
	}
	return until(ctx, "ten lines of both streams, apart and in order", 20*time.Second, func() error {
		n, err := follow(c.out.String(), "line")
		m, err2 := follow(c.errs.String(), "even")
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		if n < 10 || m < 10 {
			return fmt.Errorf("%d and %d lines", n, m)
		}
		return nil
	})
}

// toReader attaches to the container `reader`, and says and hears a line.
func toReader(ctx context.Context, e *env, line string) (*conversation, error) {
	c, err := e.converse(ctx, session{container: "reader"})
	if err != nil {
		return nil, err
	}
	return c, c.ask(ctx, line, line+"\n")
}

func attachStdin(ctx context.Context, e *env) error {
	for i := range 3 {
		c, err := toReader(ctx, e, fmt.Sprintf("attached %d by %s", i, e.over))
		if err != nil {
			return err
		}
		big := strings.Repeat("b", 200000)
		if err = c.ask(ctx, big, big+"\n"); err != nil {
			return err
		}
		c.stop() // detaches; the container reads on
		<-c.done
	}
	return nil
}

// A container whose input is not `once` does not see that a client has no more to say.
func attachKept(ctx context.Context, e *env) error {
	var out bytes.Buffer
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_ = e.run(short, session{container: "reader", stdin: strings.NewReader("and no more\n"), stdout: &out, stderr: io.Discard})
	_, err := toReader(ctx, e, "still reading")
	return err
}

func attachSeveral(ctx context.Context, e *env) error {
	var all []*conversation
	for i := range 3 {
		c, err := toReader(ctx, e, fmt.Sprintf("client %d", i))
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	for i, c := range all {
		line := fmt.Sprintf("from %d to all over %s\n", i, e.over)
		if err := c.say(line); err != nil {
			return err
		}
		for j, d := range all {
			if err := d.hear(ctx, line); err != nil {
				return fmt.Errorf("client %d: %w", j, err)
			}
		}
	}
	all[0].stop()
	<-all[0].done
	if err := all[1].say("one is gone\n"); err != nil {
		return err
	}
	return all[2].hear(ctx, "one is gone\n")
}

// interrupt types Ctrl-C until there is a prompt: one that comes while the shell is about to run a command is lost.
func (c *conversation) interrupt(ctx context.Context) error {
	return until(ctx, "a prompt after Ctrl-C", 10*time.Second, func() error {
		if err := c.say("\x03"); err != nil { // it also discards what was typed before
			return err
		}
		short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		return c.hear(short, "# ")
	})
}

func attachTTY(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "tty", tty: true})
	if err != nil {
		return err
	}
	c.sizes <- remotecommand.TerminalSize{Width: 101, Height: 31}
	if err = c.interrupt(ctx); err != nil { // whatever an earlier client has left there
		return err
	}
	if err = c.ask(ctx, "while [ \"$(stty size)\" != '31 101' ]; do sleep 0.1; done; echo siz\"ed\"", "sized\r\n"); err != nil {
		return err
	}
	if err = c.ask(ctx, "echo begu\"n\"; sleep 1000", "begun\r\n"); err != nil {
		return err
	}
	if err = c.interrupt(ctx); err != nil {
		return err
	}
	if err = c.ask(ctx, "echo $((6*7)) $?", "42 130\r\n"); err != nil {
		return err
	}
	c.stop()
	<-c.done
	d, err := e.converse(ctx, session{container: "tty", tty: true})
	if err != nil {
		return err
	}
	return d.ask(ctx, "echo agai\"n\"", "again\r\n")
}

// A client that is let go takes nothing with it.
func attachDetach(ctx context.Context, e *env) error {
	for range 5 {
		c, err := e.watch(ctx)
		if err != nil {
			return err
		}
		if _, err = c.out.wait(ctx, c.done, 0, "line"); err != nil {
			return err
		}
		c.stop()
		<-c.done
		if c, err = e.converse(ctx, session{container: "reader"}); err != nil {
			return err
		}
		c.stop()
		<-c.done
	}
	return attachOutput(ctx, e)
}

// fresh makes a container that is removed with the case.
func (e *env) fresh(ctx context.Context, s containerSpec) (string, error) {
	c := e.cri()
	id, err := c.create(ctx, s)
	if err == nil {
		e.later(func() { c.remove(id) })
	}
	return id, err
}

// exited waits for a container's end with this code.
func (e *env) exited(ctx context.Context, id string, code int32) error {
	return until(ctx, "the container has exited", 20*time.Second, func() error {
		state, got, err := e.cri().state(ctx, id)
		if err == nil && (state != cri.ContainerState_CONTAINER_EXITED || got != code) {
			err = fmt.Errorf("%s, exit code %d", state, got)
		}
		return err
	})
}

// readsToTheEnd is a container that shows what it read once its input ends.
var readsToTheEnd = containerSpec{name: "once", command: []string{"sh", "-c", "sha256sum; exit 8"}, stdin: true, stdinOnce: true}

// The first client's end of input is the container's.
func attachOnce(ctx context.Context, e *env) error {
	id, err := e.fresh(ctx, readsToTheEnd)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = e.run(ctx, session{container: id, stdin: io.LimitReader(noise(8), 500000), stdout: &out, stderr: io.Discard})
	if err != nil && exitCode(err) != 8 {
		return err
	}
	sum, _, _ := digest(io.LimitReader(noise(8), 500000))
	return errors.Join(want("output", out.String(), sum+"  -\n"), e.exited(ctx, id, 8))
}

// And so is its going away.
func attachOnceVanished(ctx context.Context, e *env) error {
	id, err := e.fresh(ctx, readsToTheEnd)
	if err != nil {
		return err
	}
	c, err := e.converse(ctx, session{container: id})
	if err != nil {
		return err
	}
	if err = c.say("a few words"); err != nil {
		return err
	}
	time.Sleep(500 * time.Millisecond)
	if state, _, err := e.cri().state(ctx, id); err != nil || state != cri.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("before its client is gone the container is %s (%v)", state, err)
	}
	c.stop()
	<-c.done
	return e.exited(ctx, id, 8)
}

// All that a container writes comes before the session's end.
func attachExit(ctx context.Context, e *env) error {
	id, err := e.fresh(ctx, containerSpec{name: "ends", command: []string{"sh", "-c", "read go; seq 20000; exit 12"}, stdin: true})
	if err != nil {
		return err
	}
	c, err := e.converse(ctx, session{container: id})
	if err != nil {
		return err
	}
	if err = c.say("go\n"); err != nil {
		return err
	}
	if err = c.end(ctx); err != nil && exitCode(err) != 12 {
		return err
	}
	var all strings.Builder
	for i := range 20000 {
		fmt.Fprintln(&all, i+1)
	}
	return errors.Join(want("output", c.out.String(), all.String()), e.exited(ctx, id, 12))
}

// Who asks for one stream gets that one.
func attachOne(ctx context.Context, e *env) error {
	out := newTranscript()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { _ = e.run(ctx, session{container: "talker", stderr: out}) }()
	_, err := out.wait(ctx, nil, 0, "even")
	return err
}

func attachExited(ctx context.Context, e *env) error {
	id, err := e.fresh(ctx, containerSpec{name: "over", command: []string{"true"}})
	if err != nil {
		return err
	}
	if err = e.exited(ctx, id, 0); err != nil {
		return err
	}
	if err = e.run(ctx, session{container: id, stdout: io.Discard, stderr: io.Discard}); err == nil {
		return errors.New("attach to a container that has exited is no error")
	}
	if err = e.run(ctx, session{container: id, command: []string{"true"}, stdout: io.Discard, stderr: io.Discard}); err == nil {
		return errors.New("exec in a container that has exited is no error")
	}
	return nil
}

// gate is a writer that takes nothing until it is opened.
type gate struct {
	open  chan struct{}
	bytes atomic.Int64
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.bytes.Add(int64(len(p)))
	return len(p), nil
}

// A client that takes nothing is let go and told so; its container goes on, and so do its other clients.
func attachSlow(ctx context.Context, e *env) error {
	const lines, size = 3_000_000, 22_888_896 // more than all buffers on the way hold
	id, err := e.fresh(ctx, containerSpec{name: "floods", command: []string{"sh", "-c", "read go; seq 3000000; touch /over; exec sleep 10000"}, stdin: true})
	if err != nil {
		return err
	}
	slow := &gate{open: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		done <- e.run(ctx, session{container: id, stdin: strings.NewReader("go\n"), stdout: slow, stderr: io.Discard})
	}()
	err = until(ctx, "the container goes on without its client", 60*time.Second, func() error {
		_, err := e.cri().execSync(ctx, id, "test", "-e", "/over")
		return err
	})
	close(slow.open)
	if err != nil {
		return err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		return errors.New("the session of a client that was let go does not end")
	}
	if err == nil || !strings.Contains(err.Error(), "detached") {
		return fmt.Errorf("a client that was let go is told: %v", err)
	}
	if n := slow.bytes.Load(); n == 0 || n >= size {
		return fmt.Errorf("it had %d of %d bytes (%d lines)", n, size, lines)
	}
	return nil
}
