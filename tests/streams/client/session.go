package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	remotenames "k8s.io/apimachinery/pkg/util/remotecommand"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	spdytransport "k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"
)

// transport is how a client speaks.
type transport string

const (
	spdy       transport = "spdy"       // SPDY/3.1, the newest of v4..v1; port-forward's own
	websocket5 transport = "websocket"  // v5.channel.k8s.io; port-forward as SPDY tunnelled in a websocket
	websocket4 transport = "websocket4" // v4.channel.k8s.io: no half-close, no port-forward
)

// env is what a case has.
type env struct {
	target target
	over   transport
	options
	mu    sync.Mutex
	after []func()
}

// later runs when the case has ended.
func (e *env) later(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.after = append(e.after, f)
}

func (e *env) cleanUp() {
	e.mu.Lock()
	after := e.after
	e.after = nil
	e.mu.Unlock()
	for i := len(after) - 1; i >= 0; i-- {
		after[i]()
	}
}

// cri is the runtime's own endpoint; only cases that need it may ask.
func (e *env) cri() *criTarget {
	c, ok := e.target.(*criTarget)
	if !ok {
		panic(errNotCRI)
	}
	return c
}

// session is one exec or attach.
type session struct {
	container string
	command   []string // none: attach
	stdin     io.Reader
	stdout    io.Writer
	stderr    io.Writer
	tty       bool
	mute      bool // of a conversation: it has no input
	sizes     remotecommand.TerminalSizeQueue
}

func (s session) streams() streamSet {
	return streamSet{s.stdin != nil, s.stdout != nil, s.stderr != nil && !s.tty, s.tty}
}

func (e *env) address(ctx context.Context, s session) (*url.URL, error) {
	if s.command == nil {
		return e.target.attach(ctx, s.container, s.streams())
	}
	return e.target.exec(ctx, s.container, s.command, s.streams())
}

// run is the whole session: the request for an address, the connection, the streams to their end.
func (e *env) run(ctx context.Context, s session) error {
	u, err := e.address(ctx, s)
	if err != nil {
		return err
	}
	return e.runAt(ctx, u, s)
}

func (e *env) runAt(ctx context.Context, u *url.URL, s session) error {
	x, err := executor(e.target.config(), e.over, u)
	if err != nil {
		return err
	}
	return x.StreamWithContext(ctx, remotecommand.StreamOptions{
		Stdin: s.stdin, Stdout: s.stdout, Stderr: s.stderr, Tty: s.tty, TerminalSizeQueue: s.sizes})
}

func executor(config *restclient.Config, over transport, u *url.URL) (remotecommand.Executor, error) {
	switch over {
	case spdy:
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	case websocket5:
		return remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
	case websocket4:
		return remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, u.String(), remotenames.StreamProtocolV4Name)
	}
	return nil, fmt.Errorf("no transport %q", over)
}

// dialer makes the connection of a port-forward.
func (e *env) dialer(u *url.URL) (httpstream.Dialer, error) {
	if e.over == websocket5 {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(u, e.target.config())
	}
	rt, upgrader, err := spdytransport.RoundTripperFor(e.target.config())
	if err != nil {
		return nil, err
	}
	return spdytransport.NewDialerForStreaming(upgrader, &http.Client{Transport: rt}, http.MethodPost, u), nil
}

// output runs a command and gives its standard output; anything on standard error is an error.
func (e *env) output(ctx context.Context, container string, command ...string) (string, error) {
	var out, errs bytes.Buffer
	err := e.run(ctx, session{container: container, command: command, stdout: &out, stderr: &errs})
	if err != nil {
		return out.String(), fmt.Errorf("%w (standard error: %q)", err, errs.String())
	}
	if errs.Len() > 0 {
		return out.String(), fmt.Errorf("standard error: %q", errs.String())
	}
	return out.String(), nil
}

// sh runs a line of shell in the container `shell`.
func (e *env) sh(ctx context.Context, line string) (string, error) {
	return e.output(ctx, "shell", "sh", "-c", line)
}

// exitCode of a session; -1 if it did not end with one.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var code exec.CodeExitError
	if errors.As(err, &code) {
		return code.Code
	}
	return -1
}

// wantCode says what is wrong if a session did not end with this code.
func wantCode(err error, code int) error {
	if exitCode(err) != code {
		return fmt.Errorf("ended with %v, not exit code %d", err, code)
	}
	return nil
}

func want(what, got, wanted string) error {
	if got != wanted {
		return fmt.Errorf("%s is %q, not %q", what, shorten(got), shorten(wanted))
	}
	return nil
}

func shorten(s string) string {
	if len(s) > 300 {
		return s[:140] + " ... " + s[len(s)-140:]
	}
	return s
}

// transcript is output that a case waits for.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newTranscript() *transcript { return &transcript{more: make(chan struct{}, 1)} }

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case t.more <- struct{}{}:
	default:
	}
	return t.text.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}

// wait until the output from `from` on contains the text, or the session is over; where the text ends.
func (t *transcript) wait(ctx context.Context, over <-chan struct{}, from int, text string) (int, error) {
	for {
		var ended bool
		select {
		case <-over: // what comes is there by now
			ended = true
		default:
		}
		all := t.String()
		if at := strings.Index(all[min(from, len(all)):], text); at >= 0 {
			return from + at + len(text), nil
		}
		if !ended && ctx.Err() == nil {
			select {
			case <-t.more:
			case <-over:
			case <-ctx.Done():
			}
			continue
		}
		return 0, fmt.Errorf("%q did not come; after %d bytes: %q", text, from, shorten(all[min(from, len(all)):]))
	}
}

// conversation is a session that goes on beside its case.
type conversation struct {
	in    *io.PipeWriter
	out   *transcript
	errs  *transcript
	sizes sizeQueue
	done  chan struct{} // closed at its end, of which err tells
	err   error
	stop  context.CancelFunc
	read  int // how far the case has read
}

type sizeQueue chan remotecommand.TerminalSize

func (q sizeQueue) Next() *remotecommand.TerminalSize {
	s, ok := <-q
	if !ok {
		return nil
	}
	return &s
}

// converse begins a session whose input the case types. It ends with the case at the latest.
func (e *env) converse(ctx context.Context, s session) (*conversation, error) {
	u, err := e.address(ctx, withInput(s))
	if err != nil {
		return nil, err
	}
	return e.converseAt(ctx, u, s)
}

func withInput(s session) session {
	s.stdin, s.stdout = strings.NewReader(""), io.Discard
	if !s.tty {
		s.stderr = io.Discard
	}
	return s
}

func (e *env) converseAt(ctx context.Context, u *url.URL, s session) (*conversation, error) {
	ctx, stop := context.WithCancel(ctx)
	e.later(stop)
	r, w := io.Pipe()
	c := &conversation{in: w, out: newTranscript(), errs: newTranscript(), sizes: make(sizeQueue, 16), done: make(chan struct{}), stop: stop}
	e.later(func() { w.Close() })
	s.stdout = c.out
	if !s.mute {
		s.stdin = r
	}
	if s.tty {
		s.sizes = c.sizes
	} else {
		s.stderr = c.errs
	}
	go func() {
		defer close(c.done)
		defer func() {
			if p := recover(); p != nil {
				c.err = fmt.Errorf("panic: %v", p)
			}
			r.CloseWithError(fmt.Errorf("the session has ended with: %v", c.err)) // what is typed now is typed to nobody
		}()
		c.err = e.runAt(ctx, u, s)
	}()
	return c, nil
}

// say types the text.
func (c *conversation) say(text string) error {
	_, err := io.WriteString(c.in, text)
	return err
}

// hear waits for the text in the output after what was heard before.
func (c *conversation) hear(ctx context.Context, text string) error {
	at, err := c.out.wait(ctx, c.done, c.read, text)
	if err != nil {
		select {
		case <-c.done:
			return fmt.Errorf("%w; the session ended with %v", err, c.err)
		default:
			return err
		}
	}
	c.read = at
	return nil
}

// ask is a line and its answer.
func (c *conversation) ask(ctx context.Context, line, answer string) error {
	if err := c.say(line + "\n"); err != nil {
		return err
	}
	if err := c.hear(ctx, answer); err != nil {
		return fmt.Errorf("after %q: %w", line, err)
	}
	return nil
}

// end waits for the session's own end.
func (c *conversation) end(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("the session does not end; so far: %q", shorten(c.out.String()))
	}
}

// until repeats a condition until it holds.
func until(ctx context.Context, what string, patience time.Duration, holds func() error) error {
	end := time.Now().Add(patience)
	for {
		err := holds()
		if err == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("not so in %s: %s: %w", patience, what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// hold is the client that is killed: a session in a process of its own, with its standard streams.
func hold(args []string) int {
	f := flag.NewFlagSet("hold", flag.ExitOnError)
	address := f.String("url", "", "of the session")
	over := f.String("transport", string(spdy), "its transport")
	tty := f.Bool("tty", false, "a terminal")
	_ = f.Parse(args)
	quiet(false)
	u, err := url.Parse(*address)
	if err != nil {
		fatal("%v", err)
	}
	x, err := executor(&restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}, transport(*over), u)
	if err != nil {
		fatal("%v", err)
	}
	s := remotecommand.StreamOptions{Stdin: os.Stdin, Stdout: os.Stdout, Tty: *tty}
	if !*tty {
		s.Stderr = os.Stderr
	}
	if err = x.StreamWithContext(context.Background(), s); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
