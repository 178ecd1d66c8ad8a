package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
)

var forwardCases = []testCase{
	{name: "forward-echo", needs: forwards, run: forwardEcho},
	{name: "forward-many", needs: forwards, limit: 2 * time.Minute, run: forwardMany},
	{name: "forward-sequence", needs: forwards, limit: 2 * time.Minute, run: forwardSequence},
	{name: "forward-two-ports", needs: forwards, run: forwardTwo},
	{name: "forward-half-close", needs: forwards, run: forwardHalfClose},
	{name: "forward-server-first", needs: forwards, run: forwardServerFirst},
	{name: "forward-refused", needs: forwards, run: forwardRefused},
	{name: "forward-reset", needs: forwards, run: forwardReset},
	{name: "forward-ipv6-only", needs: forwards, run: forwardIPv6},
	{name: "forward-ipv4-first", needs: forwards, run: forwardFamily},
	{name: "forward-host-network", needs: forwards, run: forwardHost},
	{name: "forward-big-out", needs: forwards, limit: 10 * time.Minute, run: forwardBigOut},
	{name: "forward-big-in", needs: forwards, limit: 10 * time.Minute, run: forwardBigIn},
	{name: "forward-bad-ports", needs: forwards, run: forwardBadPorts},
	{name: "forward-client-gone", needs: forwards, run: forwardGone},
	{name: "forward-no-request-id", needs: forwards | spdyOnly, run: forwardNoID},
	{name: "forward-slow-reader", needs: forwards, limit: 2 * time.Minute, run: forwardSlow},
}

// listen begins a port-forward of a pod's ports; the local addresses, in their order.
func (e *env) listen(ctx context.Context, pod string, ports ...int) ([]string, error) {
	u, err := e.target.forward(ctx, pod)
	if err != nil {
		return nil, err
	}
	d, err := e.dialer(u)
	if err != nil {
		return nil, err
	}
	specs := make([]string, 0, len(ports))
	for _, p := range ports {
		specs = append(specs, ":"+strconv.Itoa(p))
	}
	stop, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	f, err := portforward.NewOnAddressesForStreaming(d, []string{"127.0.0.1"}, specs, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return nil, err
	}
	go func() { ended <- f.ForwardPorts() }()
	e.later(func() {
		close(stop)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
		}
	})
	select {
	case <-ready:
	case err = <-ended:
		ended <- err
		return nil, fmt.Errorf("port-forward: %w", err)
	case <-ctx.Done():
		return nil, errors.New("port-forward does not get ready")
	}
	got, err := f.GetPorts()
	if err != nil {
		return nil, err
	}
	local := make([]string, 0, len(got))
	for _, p := range got {
		local = append(local, net.JoinHostPort("127.0.0.1", strconv.Itoa(int(p.Local))))
	}
	return local, nil
}

func dial(ctx context.Context, e *env, addr string) (*net.TCPConn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	e.later(func() { c.Close() })
	return c.(*net.TCPConn), nil
}

// echoes sends noise to a server that gives it back.
func echoes(ctx context.Context, e *env, addr string, size int64) error {
	c, err := dial(ctx, e, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(c, noise(9), size)
		sent <- err
	}()
	got, n, err := digest(io.LimitReader(c, size))
	if err != nil || n != size {
		return fmt.Errorf("%d of %d bytes came back: %w", n, size, err)
	}
	sum, _, _ := digest(io.LimitReader(noise(9), size))
	return errors.Join(<-sent, want("SHA-256", got, sum))
}

func forwardEcho(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portEcho)
	if err != nil {
		return err
	}
	return echoes(ctx, e, addr[0], 100000)
}

func forwardMany(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portEcho)
	if err != nil {
		return err
	}
	return repeated(50, 50, func(i int) error { return echoes(ctx, e, addr[0], int64(100000+i)) })
}

func forwardSequence(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portEcho)
	if err != nil {
		return err
	}
	return repeated(300, 1, func(i int) error { return echoes(ctx, e, addr[0], int64(i+1)) })
}

func forwardTwo(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portEcho, firstPort+portFamily)
	if err != nil {
		return err
	}
	if err = echoes(ctx, e, addr[0], 1000); err != nil {
		return err
	}
	return says(ctx, e, addr[1], "4")
}

// says connects and compares all that comes.
func says(ctx context.Context, e *env, addr, text string) error {
	c, err := dial(ctx, e, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	return errors.Join(err, want("what came", string(got), text))
}

// What the server says after the client has no more to say is delivered.
func forwardHalfClose(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portDigest)
	if err != nil {
		return err
	}
	for _, size := range []int64{0, 1, 3 << 20} {
		c, err := dial(ctx, e, addr[0])
		if err != nil {
			return err
		}
		if _, err = io.CopyN(c, noise(10), size); err == nil {
			err = c.CloseWrite()
		}
		if err != nil {
			return err
		}
		got, err := io.ReadAll(c)
		sum, _, _ := digest(io.LimitReader(noise(10), size))
		if err = errors.Join(err, want(fmt.Sprintf("digest of %d bytes", size), string(got), sum+"\n")); err != nil {
			return err
		}
	}
	return nil
}

func forwardServerFirst(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portFirst)
	if err != nil {
		return err
	}
	sum, _, _ := digest(io.LimitReader(noise(7), firstBytes))
	for range 10 {
		c, err := dial(ctx, e, addr[0])
		if err != nil {
			return err
		}
		got, n, err := digest(c)
		if err != nil || n != firstBytes || got != sum {
			return fmt.Errorf("%d of %d bytes, error %v", n, firstBytes, err)
		}
	}
	return nil
}

// pairs is a port-forward connection whose streams a case opens itself.
type pairs struct {
	httpstream.Connection
	next int
}

func (e *env) pairs(ctx context.Context, pod string) (*pairs, error) {
	u, err := e.target.forward(ctx, pod)
	if err != nil {
		return nil, err
	}
	d, err := e.dialer(u)
	if err != nil {
		return nil, err
	}
	c, protocol, err := d.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, err
	}
	e.later(func() { c.Close() })
	return &pairs{Connection: c}, want("protocol", protocol, portforward.PortForwardProtocolV1Name)
}

// open makes a connection to a port: its error stream and its data stream.
func (p *pairs) open(port string) (errs, data httpstream.Stream, err error) {
	h := http.Header{}
	h.Set(core.StreamType, core.StreamTypeError)
	h.Set(core.PortHeader, port)
	h.Set(core.PortForwardRequestIDHeader, strconv.Itoa(p.next))
	p.next++
	if errs, err = p.CreateStream(h); err != nil {
		return nil, nil, fmt.Errorf("error stream: %w", err)
	}
	_ = errs.Close()
	h.Set(core.StreamType, core.StreamTypeData)
	if data, err = p.CreateStream(h); err != nil {
		return nil, nil, fmt.Errorf("data stream: %w", err)
	}
	return errs, data, nil
}

// readAll with a bound, for streams know no deadlines.
func readAll(ctx context.Context, r io.Reader) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(r, 1<<24))
		done <- result{data, err}
	}()
	select {
	case got := <-done:
		return got.data, got.err
	case <-ctx.Done():
		return nil, errors.New("the stream does not end")
	}
}

// A refused connection is told on its error stream, and the session serves the next one.
func forwardRefused(ctx context.Context, e *env) error {
	p, err := e.pairs(ctx, "main")
	if err != nil {
		return err
	}
	for range 3 {
		errs, data, err := p.open(port(firstPort, portNothing))
		if err != nil {
			return err
		}
		text, err := readAll(ctx, errs)
		if err != nil {
			return fmt.Errorf("error stream: %w", err)
		}
		if !bytes.Contains(text, []byte("refused")) || !bytes.Contains(text, []byte(port(firstPort, portNothing))) {
			return fmt.Errorf("the error stream says %q", text)
		}
		if got, _ := readAll(ctx, data); len(got) > 0 {
			return fmt.Errorf("the data stream has %q", got)
		}
		p.RemoveStreams(errs, data)
	}
	return p.family(ctx, "4")
}

// family asks the port that tells 127.0.0.1 from ::1.
func (p *pairs) family(ctx context.Context, text string) error {
	errs, data, err := p.open(port(firstPort, portFamily))
	if err != nil {
		return err
	}
	_ = data.Close()
	got, err := readAll(ctx, data)
	if err != nil {
		return err
	}
	said, err := readAll(ctx, errs)
	return errors.Join(err, want("what came", string(got), text), want("error stream", string(said), ""))
}

// A connection that the server resets ends; what came before it is delivered.
func forwardReset(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portReset)
	if err != nil {
		return err
	}
	c, err := dial(ctx, e, addr[0])
	if err != nil {
		return err
	}
	got, _ := io.ReadAll(c)
	return want("what came", string(got), "partial")
}

func forwardIPv6(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portIPv6)
	if err != nil {
		return err
	}
	return echoes(ctx, e, addr[0], 100000)
}

func forwardFamily(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portFamily)
	if err != nil {
		return err
	}
	return says(ctx, e, addr[0], "4")
}

func forwardHost(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "host", hostPort+portEcho)
	if err != nil {
		return err
	}
	return echoes(ctx, e, addr[0], 100000)
}

func forwardBigOut(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portSource)
	if err != nil {
		return err
	}
	c, err := dial(ctx, e, addr[0])
	if err != nil {
		return err
	}
	fmt.Fprintln(c, e.bytes)
	got, n, err := digest(c)
	sum, _, _ := digest(io.LimitReader(noise(1), e.bytes))
	return errors.Join(err, want("number of bytes", fmt.Sprint(n), fmt.Sprint(e.bytes)), want("SHA-256", got, sum))
}

func forwardBigIn(ctx context.Context, e *env) error {
	addr, err := e.listen(ctx, "main", firstPort+portDigest)
	if err != nil {
		return err
	}
	c, err := dial(ctx, e, addr[0])
	if err != nil {
		return err
	}
	if _, err = io.CopyN(c, noise(1), e.bytes); err == nil {
		err = c.CloseWrite()
	}
	if err != nil {
		return err
	}
	got, err := io.ReadAll(c)
	sum, _, _ := digest(io.LimitReader(noise(1), e.bytes))
	return errors.Join(err, want("digest in the container", string(got), sum+"\n"))
}

// Ports that are none are refused, and the pod is forwarded to as before.
func forwardBadPorts(ctx context.Context, e *env) error {
	for _, bad := range []string{"0", "65536", "-1", "http", "", "99999999999999999999"} {
		p, err := e.pairs(ctx, "main")
		if err != nil {
			return err
		}
		errs, data, err := p.open(bad)
		if err != nil {
			continue // refused as it was opened
		}
		ended, cancel := context.WithTimeout(ctx, 10*time.Second)
		said, err1 := readAll(ended, errs)
		got, err2 := readAll(ended, data)
		hangs := ended.Err()
		cancel()
		if hangs != nil {
			return fmt.Errorf("port %q: the streams stay open", bad)
		}
		if err1 == nil && err2 == nil && len(said) == 0 {
			return fmt.Errorf("port %q: the streams end well, with %q", bad, got)
		}
		p.Close()
	}
	p, err := e.pairs(ctx, "main")
	if err != nil {
		return err
	}
	return p.family(ctx, "4")
}

// openConnections of the echo server, as it counts them itself.
func (e *env) openConnections(ctx context.Context) (string, error) {
	p, err := e.pairs(ctx, "main")
	if err != nil {
		return "", err
	}
	defer p.Close()
	_, data, err := p.open(port(firstPort, portOpen))
	if err != nil {
		return "", err
	}
	_ = data.Close()
	got, err := readAll(ctx, data)
	return string(got), err
}

// When the client goes, its connections in the pod are closed.
func forwardGone(ctx context.Context, e *env) error {
	p, err := e.pairs(ctx, "main")
	if err != nil {
		return err
	}
	for range 5 {
		_, data, err := p.open(port(firstPort, portEcho))
		if err != nil {
			return err
		}
		if _, err = data.Write([]byte("x")); err != nil {
			return err
		}
		if _, err = io.ReadFull(data, make([]byte, 1)); err != nil {
			return err
		}
	}
	if n, err := e.openConnections(ctx); err != nil || n != "5" {
		return fmt.Errorf("%q connections are open, not 5 (%v)", n, err)
	}
	p.Close()
	return until(ctx, "no connection is open in the pod", 20*time.Second, func() error {
		n, err := e.openConnections(ctx)
		return errors.Join(err, want("open connections", n, "0"))
	})
}

// Streams without a request's id belong together by their own: data is the one after error.
func forwardNoID(ctx context.Context, e *env) error {
	p, err := e.pairs(ctx, "main")
	if err != nil {
		return err
	}
	for range 2 {
		h := http.Header{}
		h.Set(core.StreamType, core.StreamTypeError)
		h.Set(core.PortHeader, port(firstPort, portFamily))
		errs, err := p.CreateStream(h)
		if err != nil {
			return err
		}
		h.Set(core.StreamType, core.StreamTypeData)
		data, err := p.CreateStream(h)
		if err != nil {
			return err
		}
		_ = data.Close()
		got, err := readAll(ctx, data)
		if err = errors.Join(err, want("what came", string(got), "4")); err != nil {
			return err
		}
		p.RemoveStreams(errs, data)
	}
	return nil
}

// A local reader that stops holds its connection up, not the runtime's memory, and loses nothing.
func forwardSlow(ctx context.Context, e *env) error {
	const most = 24 << 10
	size := max(e.bytes, 32<<20)
	addr, err := e.listen(ctx, "main", firstPort+portSource)
	if err != nil {
		return err
	}
	c, err := dial(ctx, e, addr[0])
	if err != nil {
		return err
	}
	before, counted := e.memory()
	fmt.Fprintln(c, size)
	time.Sleep(2 * time.Second)
	if after, _ := e.memory(); counted && after > before+most {
		return fmt.Errorf("the runtime's memory grew by %d kB while a reader stood still", after-before)
	}
	got, n, err := digest(c)
	sum, _, _ := digest(io.LimitReader(noise(1), size))
	if err != nil || n != size || got != sum {
		return fmt.Errorf("%d of %d bytes, error %v, digests equal: %v", n, size, err, got == sum)
	}
	return nil
}

// little is a port as the channels of the websocket's port-forward begin with it.
func little(port int) string {
	return string(binary.LittleEndian.AppendUint16(nil, uint16(port)))
}
