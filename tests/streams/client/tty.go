package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"k8s.io/client-go/tools/remotecommand"
)

var ttyCases = []testCase{
	{name: "tty-output", run: ttyOutput},
	{name: "tty-resize", run: ttyResize},
	{name: "tty-interrupt", run: ttyInterrupt},
	{name: "tty-end-of-file", run: ttyEOF},
	{name: "tty-exit-code", run: ttyExit},
	{name: "tty-paste", limit: 3 * time.Minute, run: ttyPaste},
	{name: "tty-resize-flood", run: ttyFlood},
}

var shellOnTTY = session{container: "shell", command: []string{"sh"}, tty: true}

func ttyOutput(ctx context.Context, e *env) error {
	out := newTranscript()
	err := e.run(ctx, session{container: "shell", stdout: out, tty: true,
		command: []string{"sh", "-c", "tty; echo to err >&2; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo all three; exit 6"}})
	if err = wantCode(err, 6); err != nil {
		return err
	}
	lines := strings.Split(out.String(), "\r\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "/dev/pts/") || lines[1] != "to err" || lines[2] != "all three" {
		return fmt.Errorf("output is %q", out.String())
	}
	return nil
}

// The window's size is there soon after the start, and a change is a signal to all that runs on the terminal.
func ttyResize(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", tty: true, command: []string{"sh", "-c",
		`while [ "$(stty size)" != '40 120' ]; do sleep 0.1; done; trap 'echo resized to $(stty size)' WINCH; echo first size; while :; do sleep 0.1; done`}})
	if err != nil {
		return err
	}
	c.sizes <- remotecommand.TerminalSize{Width: 120, Height: 40}
	if err = c.hear(ctx, "first size\r\n"); err != nil {
		return err
	}
	c.sizes <- remotecommand.TerminalSize{Width: 132, Height: 50}
	if err = c.hear(ctx, "resized to 50 132\r\n"); err != nil {
		return err
	}
	c.sizes <- remotecommand.TerminalSize{Width: 80, Height: 24}
	return c.hear(ctx, "resized to 24 80\r\n")
}

func ttyInterrupt(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", command: []string{"sh", "-c", "echo begun; sleep 1000"}, tty: true})
	if err != nil {
		return err
	}
	if err = c.hear(ctx, "begun\r\n"); err != nil {
		return err
	}
	if err = c.say("\x03"); err != nil {
		return err
	}
	return wantCode(c.end(ctx), 130)
}

func ttyEOF(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", command: []string{"cat"}, tty: true})
	if err != nil {
		return err
	}
	if err = c.ask(ctx, "hello", "hello\r\nhello\r\n"); err != nil {
		return err
	}
	if err = c.say("\x04"); err != nil {
		return err
	}
	return wantCode(c.end(ctx), 0)
}

func ttyExit(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, shellOnTTY)
	if err != nil {
		return err
	}
	if err = c.ask(ctx, "echo $((6*7))", "42\r\n"); err != nil {
		return err
	}
	if err = c.say("exit 11\n"); err != nil {
		return err
	}
	return wantCode(c.end(ctx), 11)
}

// Megabytes pasted into a terminal arrive whole. The terminal is raw, for a cooked one holds 4096 bytes of a line.
func ttyPaste(ctx context.Context, e *env) error {
	const size = 4 << 20
	c, err := e.converse(ctx, session{container: "shell", tty: true,
		command: []string{"sh", "-c", fmt.Sprintf("stty raw -echo; echo raw; head -c %d | sha256sum", size)}})
	if err != nil {
		return err
	}
	if err = c.hear(ctx, "raw\n"); err != nil {
		return err
	}
	pasted := strings.Repeat("0123456789abcdef\xff\x00\x03\x04\r\n", size/22+1)[:size]
	sum, _, _ := digest(strings.NewReader(pasted))
	if err = c.say(pasted); err != nil {
		return err
	}
	return errors.Join(c.hear(ctx, sum), wantCode(c.end(ctx), 0))
}

// As many resizes as a client can send: the last one counts, and the session is none the worse.
func ttyFlood(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, shellOnTTY)
	if err != nil {
		return err
	}
	for i := range 5000 {
		select {
		case c.sizes <- remotecommand.TerminalSize{Width: uint16(i%200 + 1), Height: uint16(i%100 + 1)}:
		case <-ctx.Done():
			return errors.New("the resizes are not taken")
		}
	}
	c.sizes <- remotecommand.TerminalSize{Width: 111, Height: 33}
	return c.ask(ctx, "while [ \"$(stty size)\" != '33 111' ]; do sleep 0.1; done; echo siz\"ed\"", "sized\r\n")
}
