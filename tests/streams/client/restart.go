package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"k8s.io/client-go/tools/remotecommand"
)

// The daemon's end, in the middle of things.
var restartCases = []testCase{
	{name: "restart-after-kill", needs: restarts | onCRI, limit: 10 * time.Minute, run: restartAfter("kill")},
	{name: "restart-after-stop", needs: restarts | onCRI, limit: 10 * time.Minute, run: restartAfter("stop")},
	{name: "restart-address-stays-good", needs: restarts | onCRI, run: restartAddress},
	{name: "stream-server-killed", needs: restarts | onCRI, limit: 2 * time.Minute, run: serverKilled},
}

// daemon tells the suite what to do with it.
func (e *env) daemon(ctx context.Context, verb string) error {
	if text, err := exec.CommandContext(ctx, e.restart, verb).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", e.restart, verb, err, text)
	}
	return nil
}

// paced is a reader that tells when a quarter of it was read, and then goes slowly until it is let go.
type paced struct {
	io.Reader
	left, quarter int64
	reached       chan struct{}
	free          *atomic.Bool
}

func pace(r io.Reader, size int64, free *atomic.Bool) *paced {
	return &paced{io.LimitReader(r, size), size, size * 3 / 4, make(chan struct{}), free}
}

func (p *paced) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	was := p.left
	p.left -= int64(n)
	if was > p.quarter && p.left <= p.quarter {
		close(p.reached)
	}
	if p.left <= p.quarter && !p.free.Load() {
		time.Sleep(5 * time.Millisecond) // 6 MB/s by 32 KiB
	}
	return n, err
}

type copied struct {
	sum string
	n   int64
	err error
}

// restartAfter: a shell on a terminal, a big copy both ways, an attach and a port-forward go on while the daemon ends and
// while it comes back, and they end right.
func restartAfter(verb string) func(context.Context, *env) error {
	return func(ctx context.Context, e *env) error {
		shell, err := e.converse(ctx, shellOnTTY)
		if err != nil {
			return err
		}
		if err = shell.ask(ctx, "WORD=kept; echo rea\"dy\"", "ready\r\n"); err != nil {
			return err
		}
		brief, err := e.converse(ctx, session{container: "shell", command: []string{"sh", "-c", "echo begun; read code; exit $code"}})
		if err != nil {
			return err
		}
		if err = brief.hear(ctx, "begun"); err != nil {
			return err
		}
		attached, err := toReader(ctx, e, "before the end")
		if err != nil {
			return err
		}
		local, err := e.listen(ctx, "main", firstPort+portEcho, firstPort+portSource)
		if err != nil {
			return err
		}
		long, err := dial(ctx, e, local[0])
		if err != nil {
			return err
		}
		if err = echo(long, "one way"); err != nil {
			return err
		}
		var free atomic.Bool
		e.later(func() { free.Store(true) })
		up := pace(noise(11), e.bytes, &free)
		through := make(chan copied, 1)
		go func() {
			sum, n, err := e.through(ctx, up)
			through <- copied{sum, n, err}
		}()
		source, err := dial(ctx, e, local[1])
		if err != nil {
			return err
		}
		fmt.Fprintln(source, e.bytes)
		down := pace(source, e.bytes, &free)
		fetched := make(chan copied, 1)
		go func() {
			sum, n, err := digest(down)
			fetched <- copied{sum, n, err}
		}()
		for _, p := range []*paced{up, down} {
			select {
			case <-p.reached:
			case early := <-through:
				return fmt.Errorf("the copy ended after %d bytes: %w", early.n, early.err)
			case <-ctx.Done():
				return errors.New("the copies do not get to a quarter")
			}
		}

		if err = e.daemon(ctx, verb); err != nil {
			return err
		}
		down1 := errors.Join(
			shell.ask(ctx, "echo $WORD without $((40+2))", "kept without 42\r\n"),
			attached.ask(ctx, "nobody there", "nobody there\n"), echo(long, "meanwhile"), echoes(ctx, e, local[0], 10000),
			brief.say("31\n"), wantCode(brief.end(ctx), 31))
		if err = e.daemon(ctx, "start"); err != nil {
			return errors.Join(down1, err)
		}
		if down1 != nil {
			return fmt.Errorf("without a daemon: %w", down1)
		}
		shell.sizes <- remotecommand.TerminalSize{Width: 99, Height: 22}
		err = errors.Join(
			shell.ask(ctx, "while [ \"$(stty size)\" != '22 99' ]; do sleep 0.1; done; echo siz\"ed\" $WORD", "sized kept\r\n"),
			attached.ask(ctx, "after", "after\n"), echo(long, "and back"), echoes(ctx, e, local[0], 10000))
		if err != nil {
			return fmt.Errorf("with the next daemon: %w", err)
		}
		free.Store(true)
		sumUp, _, _ := digest(io.LimitReader(noise(11), e.bytes))
		sumDown, _, _ := digest(io.LimitReader(noise(1), e.bytes))
		for _, c := range []struct {
			what, sum string
			done      chan copied
		}{{"copy through exec", sumUp, through}, {"copy through the port-forward", sumDown, fetched}} {
			select {
			case got := <-c.done:
				err = errors.Join(err, got.err, want(c.what+": bytes", fmt.Sprint(got.n), fmt.Sprint(e.bytes)), want(c.what+": SHA-256", got.sum, c.sum))
			case <-ctx.Done():
				err = errors.Join(err, fmt.Errorf("%s does not end", c.what))
			}
		}
		if err != nil {
			return err
		}
		if err = shell.say("exit 23\n"); err != nil {
			return err
		}
		return errors.Join(wantCode(shell.end(ctx), 23), e.serves(ctx))
	}
}

// echo sends the text to an echo server and reads it back.
func echo(c io.ReadWriter, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	_, err := io.ReadFull(c, got)
	return errors.Join(err, want("the echo", string(got), text))
}

// An address that a daemon gave is good for its minute, whoever is the daemon then.
func restartAddress(ctx context.Context, e *env) error {
	u, err := e.target.exec(ctx, "shell", []string{"sh", "-c", "exit 14"}, outOnly)
	if err != nil {
		return err
	}
	if err = errors.Join(e.daemon(ctx, "kill"), e.daemon(ctx, "start")); err != nil {
		return err
	}
	return wantCode(e.runAt(ctx, u, session{stdout: io.Discard}), 14)
}

// When the server of the streams itself is killed, its clients see that at once, their processes go, and the daemon has
// another one for the next.
func serverKilled(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", command: []string{"sh", "-c", "echo begun; sleep 9898 & sleep 9898; true"}})
	if err != nil {
		return err
	}
	if err = c.hear(ctx, "begun"); err != nil {
		return err
	}
	u, err := e.trueAt(ctx)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return err
	}
	pid, err := listener(port)
	if err != nil {
		return err
	}
	daemon, err := e.cri().peerPID()
	if err != nil {
		return err
	}
	if pid == daemon {
		return errors.New("the daemon itself serves the streams")
	}
	if err = syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return err
	}
	end, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	// client-go takes the end of a SPDY connection for a good end (tools/remotecommand/errorstream.go).
	if err = c.end(end); err == nil && e.over != spdy || end.Err() != nil {
		return fmt.Errorf("the client sees: %v", err)
	}
	err = until(ctx, "the next session is served", 10*time.Second, func() error { return e.serves(ctx) })
	return errors.Join(err, e.gone(ctx, "sleep 9898"))
}
