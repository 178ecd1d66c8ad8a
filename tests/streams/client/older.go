package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	gorilla "github.com/gorilla/websocket"
	core "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// Protocols that client-go does not ask for any more, and others do.
var versionCases = []testCase{
	{name: "spdy-v3", needs: onCRI | spdyOnly, run: olderSPDY("v3.channel.k8s.io")},
	{name: "spdy-v2", needs: onCRI | spdyOnly, run: olderSPDY("v2.channel.k8s.io")},
	{name: "spdy-v1", needs: onCRI | spdyOnly, run: olderSPDY("channel.k8s.io")},
	{name: "websocket-channel.k8s.io", needs: onCRI | spdyOnly, run: channels("channel.k8s.io")},
	{name: "websocket-v4.channel.k8s.io", needs: onCRI | spdyOnly, run: channels("v4.channel.k8s.io")},
	{name: "websocket-base64.channel.k8s.io", needs: onCRI | spdyOnly, run: channels("base64.channel.k8s.io")},
	{name: "websocket-v4.base64.channel.k8s.io", needs: onCRI | spdyOnly, run: channels("v4.base64.channel.k8s.io")},
	{name: "websocket-no-subprotocol", needs: onCRI | spdyOnly, run: channels("")},
	{name: "websocket-ping", needs: onCRI | spdyOnly, run: websocketPing},
	{name: "websocket-forward-v4.channel.k8s.io", needs: onCRI | spdyOnly, run: forwardChannels("v4.channel.k8s.io")},
	{name: "websocket-forward-v4.base64.channel.k8s.io", needs: onCRI | spdyOnly, run: forwardChannels("v4.base64.channel.k8s.io")},
}

// olderSPDY: a session as clients before v4 have it; how it ends is plain text.
func olderSPDY(version string) func(context.Context, *env) error {
	return func(ctx context.Context, e *env) error {
		for _, exit := range []string{"0", "7"} {
			u, err := e.target.exec(ctx, "shell", []string{"sh", "-c", "read line; echo out $line; echo err >&2; exit " + exit}, streamSet{true, true, true, false})
			if err != nil {
				return err
			}
			c, err := e.connectSPDY(ctx, u, version)
			if err != nil {
				return err
			}
			var s [4]httpstream.Stream
			for i, kind := range []string{core.StreamTypeError, core.StreamTypeStdin, core.StreamTypeStdout, core.StreamTypeStderr} {
				if s[i], err = streamOf(c, kind); err != nil {
					return err
				}
			}
			_, _ = io.WriteString(s[1], "line\n")
			_ = s[1].Close()
			out, err1 := readAll(ctx, s[2])
			errs, err2 := readAll(ctx, s[3])
			said, err3 := readAll(ctx, s[0])
			err = errors.Join(err1, err2, err3, want("standard output", string(out), "out line\n"), want("standard error", string(errs), "err\n"))
			if err != nil {
				return err
			}
			if exit == "0" {
				if err = want("error stream", string(said), ""); err != nil {
					return err
				}
			} else if !strings.Contains(string(said), "exit code "+exit) && !strings.Contains(string(said), "exit status "+exit) {
				return fmt.Errorf("the error stream says %q", said)
			}
			c.Close()
		}
		return nil
	}
}

// wire is a websocket with channels.
type wire struct {
	*gorilla.Conn
	base64 bool
}

func (e *env) wire(ctx context.Context, u *url.URL, protocol string) (*wire, error) {
	ws := *u
	ws.Scheme = strings.Replace(u.Scheme, "http", "ws", 1)
	d := gorilla.Dialer{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if protocol != "" {
		d.Subprotocols = []string{protocol}
	}
	c, _, err := d.DialContext(ctx, ws.String(), nil)
	if err != nil {
		return nil, err
	}
	e.later(func() { c.Close() })
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetReadDeadline(end)
	}
	return &wire{c, strings.Contains(protocol, "base64")}, want("subprotocol", c.Subprotocol(), protocol)
}

func (w *wire) send(channel int, text string) error {
	if w.base64 {
		return w.WriteMessage(gorilla.TextMessage, []byte(fmt.Sprint(channel)+base64.StdEncoding.EncodeToString([]byte(text))))
	}
	return w.WriteMessage(gorilla.BinaryMessage, append([]byte{byte(channel)}, text...))
}

func (w *wire) receive() (int, string, error) {
	kind, data, err := w.ReadMessage()
	if err != nil {
		return 0, "", err
	}
	if len(data) == 0 {
		return 0, "", errors.New("a message has no channel")
	}
	if !w.base64 {
		if kind != gorilla.BinaryMessage {
			return 0, "", fmt.Errorf("a message is of type %d", kind)
		}
		return int(data[0]), string(data[1:]), nil
	}
	if kind != gorilla.TextMessage {
		return 0, "", fmt.Errorf("a message is of type %d", kind)
	}
	text, err := base64.StdEncoding.DecodeString(string(data[1:]))
	return int(data[0] - '0'), string(text), err
}

// rest is all that comes until the end, by channel.
func (w *wire) rest() (map[int]string, error) {
	all := map[int]string{}
	for {
		channel, text, err := w.receive()
		if err != nil {
			if gorilla.IsCloseError(err, gorilla.CloseNormalClosure, gorilla.CloseNoStatusReceived) || errors.Is(err, io.EOF) || gorilla.IsUnexpectedCloseError(err) {
				return all, nil
			}
			return all, err
		}
		all[channel] += text
	}
}

// channels: a session over numbered channels; v4 ends with a Status, the others with plain text.
func channels(protocol string) func(context.Context, *env) error {
	return func(ctx context.Context, e *env) error {
		for _, exit := range []string{"0", "7"} {
			u, err := e.target.exec(ctx, "shell", []string{"sh", "-c", "read line; echo out $line; echo err >&2; exit " + exit}, streamSet{true, true, true, false})
			if err != nil {
				return err
			}
			w, err := e.wire(ctx, u, protocol)
			if err != nil {
				return err
			}
			// An empty message on the lowest channel that the server writes says that it is open.
			channel, text, err := w.receive()
			if err = errors.Join(err, want("the first message", fmt.Sprint(channel, " ", text), "1 ")); err != nil {
				return err
			}
			if err = w.send(0, "line\n"); err != nil {
				return err
			}
			all, err := w.rest()
			err = errors.Join(err, want("standard output", all[1], "out line\n"), want("standard error", all[2], "err\n"))
			if err != nil {
				return err
			}
			said := all[3]
			switch {
			case strings.HasPrefix(protocol, "v4."):
				wanted := map[string]string{"0": `"status":"Success"`, "7": `"reason":"NonZeroExitCode"`}[exit]
				if !strings.Contains(said, wanted) || exit == "7" && !strings.Contains(said, `"message":"7"`) {
					return fmt.Errorf("exit code %s: the error channel says %q", exit, said)
				}
			case exit == "0":
				if err = want("error channel", said, ""); err != nil {
					return err
				}
			case !strings.Contains(said, exit):
				return fmt.Errorf("exit code %s: the error channel says %q", exit, said)
			}
		}
		return nil
	}
}

// A ping is answered while nothing else goes on.
func websocketPing(ctx context.Context, e *env) error {
	u, err := e.target.exec(ctx, "shell", []string{"cat"}, streamSet{true, true, false, false})
	if err != nil {
		return err
	}
	w, err := e.wire(ctx, u, "v4.channel.k8s.io")
	if err != nil {
		return err
	}
	pong := make(chan string, 1)
	w.SetPongHandler(func(text string) error { pong <- text; return nil })
	if err = w.WriteControl(gorilla.PingMessage, []byte("anybody there"), time.Now().Add(5*time.Second)); err != nil {
		return err
	}
	go func() { _, _ = w.rest() }()
	select {
	case text := <-pong:
		return want("pong", text, "anybody there")
	case <-time.After(10 * time.Second):
		return errors.New("no pong in 10 s")
	}
}

// forwardChannels: two ports, each with a channel for data and one for errors, named by the request.
func forwardChannels(protocol string) func(context.Context, *env) error {
	return func(ctx context.Context, e *env) error {
		u, err := e.target.forward(ctx, "main", firstPort+portEcho, firstPort+portNothing)
		if err != nil {
			return err
		}
		w, err := e.wire(ctx, u, protocol)
		if err != nil {
			return err
		}
		got := map[int]string{}
		for range 4 { // the first message of each channel is its port
			channel, text, err := w.receive()
			if err != nil {
				return err
			}
			got[channel] += text
		}
		for channel, p := range []int{firstPort + portEcho, firstPort + portEcho, firstPort + portNothing, firstPort + portNothing} {
			if len(got[channel]) < 2 || got[channel][:2] != little(p) {
				return fmt.Errorf("channel %d begins with %x", channel, got[channel])
			}
			got[channel] = got[channel][2:]
		}
		if err = w.send(0, "hello"); err != nil {
			return err
		}
		for got[0] != "hello" || got[3] == "" {
			channel, text, err := w.receive()
			if err != nil {
				return fmt.Errorf("%w; so far %v", err, got)
			}
			got[channel] += text
		}
		if !strings.Contains(got[3], "refused") || got[1] != "" || got[2] != "" {
			return fmt.Errorf("the channels say %v", got)
		}
		return nil
	}
}
