package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	core "k8s.io/api/core/v1"
	restclient "k8s.io/client-go/rest"
	spdytransport "k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Requests made by hand; each case is run once, whatever its transport is.
var requestCases = []testCase{
	{name: "call-bad-fields", needs: onCRI | spdyOnly, run: callBadFields},
	{name: "call-too-many", needs: onCRI | spdyOnly, run: callTooMany},
	{name: "token-is-long", needs: onCRI | spdyOnly, run: tokenLong},
	{name: "token-wrong", needs: onCRI | spdyOnly, run: tokenWrong},
	{name: "token-reused", needs: onCRI, run: tokenReused},
	{name: "token-of-another-verb", needs: onCRI | spdyOnly, run: tokenOfAnother},
	{name: "request-wrong-method", needs: onCRI | spdyOnly, run: wrongMethod},
	{name: "request-no-upgrade", needs: onCRI | spdyOnly, run: noUpgrade},
	{name: "request-wrong-version", needs: onCRI | spdyOnly, run: wrongVersion},
	{name: "request-version-list", needs: onCRI | spdyOnly, run: versionList},
	{name: "request-wrong-subprotocol", needs: onCRI | spdyOnly, run: wrongSubprotocol},
	{name: "request-header-bomb", needs: onCRI | spdyOnly, run: headerBomb},
	{name: "stream-of-unknown-type", needs: onCRI | spdyOnly, run: unknownType},
	{name: "stream-missing", needs: onCRI | spdyOnly, limit: 2 * time.Minute, run: missingStreams},
	{name: "garbage-after-upgrade", needs: onCRI | spdyOnly, run: garbage},
	{name: "client-vanishes", needs: onCRI | spdyOnly, limit: 2 * time.Minute, run: vanish},
	{name: "client-vanishes-on-websocket", needs: onCRI | spdyOnly, limit: 2 * time.Minute, run: vanishOnWebsocket},
	{name: "client-vanishes-from-forward", needs: onCRI | spdyOnly, limit: 2 * time.Minute, run: vanishFromForward},
}

// plain makes one connection to a streaming server, for requests that no client library would make.
func plain(ctx context.Context, u *url.URL) (net.Conn, error) {
	if u.Scheme == "https" {
		return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", u.Host)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
}

// request sends one request with these header lines and gives the answer's head; the connection is the caller's.
func request(ctx context.Context, method string, u *url.URL, header ...string) (*http.Response, net.Conn, error) {
	c, err := plain(ctx, u)
	if err != nil {
		return nil, nil, err
	}
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	lines := append([]string{method + " " + u.RequestURI() + " HTTP/1.1", "Host: " + u.Host}, header...)
	if _, err = io.WriteString(c, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		c.Close()
		return nil, nil, err
	}
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return r, c, nil
}

// answered is the status of a request.
func answered(ctx context.Context, method string, u *url.URL, header ...string) (int, http.Header, error) {
	r, c, err := request(ctx, method, u, header...)
	if err != nil {
		return 0, nil, err
	}
	c.Close()
	return r.StatusCode, r.Header, nil
}

func wantStatus(got int, err error, wanted ...int) error {
	if err != nil {
		return err
	}
	if !slices.Contains(wanted, got) {
		return fmt.Errorf("status %d, not %v", got, wanted)
	}
	return nil
}

var upgradeSPDY = []string{"Connection: Upgrade", "Upgrade: SPDY/3.1"}

func upgrade(versions ...string) []string {
	lines := slices.Clone(upgradeSPDY)
	for _, v := range versions {
		lines = append(lines, "X-Stream-Protocol-Version: "+v)
	}
	return lines
}

func upgradeWebsocket(protocols string) []string {
	lines := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	if protocols != "" {
		lines = append(lines, "Sec-WebSocket-Protocol: "+protocols)
	}
	return lines
}

var outOnly = streamSet{stdout: true}

// trueAt is the address of a session that runs `true`.
func (e *env) trueAt(ctx context.Context) (*url.URL, error) {
	return e.target.exec(ctx, "shell", []string{"true"}, outOnly)
}

// serves: after what a case has done, sessions are as before.
func (e *env) serves(ctx context.Context) error {
	out, err := e.sh(ctx, "echo fine")
	return errors.Join(err, want("output afterwards", out, "fine\n"))
}

func callBadFields(ctx context.Context, e *env) error {
	t := e.target
	id := e.cri().id("shell")
	unknown := strings.Repeat("0123456789abcdef", 4)
	all := streamSet{true, true, true, false}
	for what, c := range map[string]struct {
		call func() (*url.URL, error)
		code codes.Code
	}{
		"exec: no container":             {func() (*url.URL, error) { return t.exec(ctx, "", []string{"true"}, all) }, codes.InvalidArgument},
		"exec: tty and stderr":           {func() (*url.URL, error) { return t.exec(ctx, id, []string{"true"}, streamSet{true, true, true, true}) }, codes.InvalidArgument},
		"exec: no stream":                {func() (*url.URL, error) { return t.exec(ctx, id, []string{"true"}, streamSet{}) }, codes.InvalidArgument},
		"exec: a tty alone":              {func() (*url.URL, error) { return t.exec(ctx, id, []string{"true"}, streamSet{tty: true}) }, codes.InvalidArgument},
		"exec: unknown container":        {func() (*url.URL, error) { return t.exec(ctx, unknown, []string{"true"}, all) }, codes.NotFound},
		"attach: no container":           {func() (*url.URL, error) { return t.attach(ctx, "", all) }, codes.InvalidArgument},
		"attach: no stream":              {func() (*url.URL, error) { return t.attach(ctx, id, streamSet{}) }, codes.InvalidArgument},
		"attach: tty and stderr":         {func() (*url.URL, error) { return t.attach(ctx, id, streamSet{true, true, true, true}) }, codes.InvalidArgument},
		"attach: unknown container":      {func() (*url.URL, error) { return t.attach(ctx, unknown, all) }, codes.NotFound},
		"port-forward: no pod":           {func() (*url.URL, error) { return t.forward(ctx, "") }, codes.InvalidArgument},
		"port-forward: unknown pod":      {func() (*url.URL, error) { return t.forward(ctx, unknown) }, codes.NotFound},
		"port-forward: a container's id": {func() (*url.URL, error) { return t.forward(ctx, id) }, codes.NotFound},
	} {
		if _, err := c.call(); status.Code(err) != c.code {
			return fmt.Errorf("%s: %v, not %s", what, err, c.code)
		}
	}
	return nil
}

// Addresses that nobody uses are bounded, and the bound goes away with them.
func callTooMany(ctx context.Context, e *env) error {
	var urls []*url.URL
	for i := range 20000 {
		u, err := e.trueAt(ctx)
		if status.Code(err) == codes.ResourceExhausted {
			// One that is used makes room for one.
			if err = e.runAt(ctx, urls[0], session{stdout: io.Discard}); err != nil {
				return err
			}
			for _, u := range urls[1:] {
				if _, _, err = answered(ctx, "POST", u, upgrade("v4.channel.k8s.io")...); err != nil { // uses it up
					return err
				}
			}
			return e.serves(ctx)
		}
		if err != nil {
			return fmt.Errorf("number %d: %w", i, err)
		}
		urls = append(urls, u)
	}
	return errors.New("20000 addresses were given, and none was used")
}

// A token is 128 bits at least that nobody can guess, for it is all that a session is protected by.
func tokenLong(ctx context.Context, e *env) error {
	seen := map[string]bool{}
	for range 50 {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		token := u.Path[strings.LastIndexByte(u.Path, '/')+1:]
		if seen[token] || !regexp.MustCompile(`^[A-Za-z0-9_-]{22,}$`).MatchString(token) {
			return fmt.Errorf("a token has %d characters of base64, not 22: %q", len(token), u.Path)
		}
		seen[token] = true
		if _, _, err = answered(ctx, "POST", u, upgrade("v4.channel.k8s.io")...); err != nil {
			return err
		}
	}
	return nil
}

func tokenWrong(ctx context.Context, e *env) error {
	u, err := e.trueAt(ctx)
	if err != nil {
		return err
	}
	for _, path := range []string{"/exec/AAAAAAAAAAAAAAAAAAAAAA", "/exec/x", "/exec/", "/attach/AAAAAAAAAAAAAAAAAAAAAA", "/portforward/AAAAAAAAAAAAAAAAAAAAAA",
		"/", "/other", u.Path + "x", "/exec/..%2f", u.Path[:len(u.Path)-1]} {
		wrong := *u
		wrong.Path = path
		for name, header := range map[string][]string{"SPDY": upgrade("v4.channel.k8s.io", "portforward.k8s.io"), "websocket": upgradeWebsocket("v4.channel.k8s.io")} {
			got, _, err := answered(ctx, "GET", &wrong, header...)
			if err = wantStatus(got, err, http.StatusNotFound); err != nil {
				return fmt.Errorf("%s with %s: %w", path, name, err)
			}
		}
	}
	return e.runAt(ctx, u, session{stdout: io.Discard}) // the right one is good still
}

func tokenReused(ctx context.Context, e *env) error {
	u, err := e.trueAt(ctx)
	if err != nil {
		return err
	}
	if err = e.runAt(ctx, u, session{stdout: io.Discard}); err != nil {
		return err
	}
	for range 3 {
		got, _, err := answered(ctx, "GET", u, upgrade("v4.channel.k8s.io")...)
		if err = wantStatus(got, err, http.StatusNotFound); err != nil {
			return err
		}
	}
	if err = e.runAt(ctx, u, session{stdout: io.Discard}); err == nil {
		return errors.New("a token was good twice")
	}
	return nil
}

func tokenOfAnother(ctx context.Context, e *env) error {
	u, err := e.trueAt(ctx)
	if err != nil {
		return err
	}
	for _, verb := range []string{"/attach/", "/portforward/"} {
		wrong := *u
		wrong.Path = verb + strings.TrimPrefix(u.Path, "/exec/")
		got, _, err := answered(ctx, "POST", &wrong, upgrade("v4.channel.k8s.io", "portforward.k8s.io")...)
		if err = wantStatus(got, err, http.StatusNotFound); err != nil {
			return fmt.Errorf("%s: %w", verb, err)
		}
	}
	return nil
}

func wrongMethod(ctx context.Context, e *env) error {
	u, err := e.trueAt(ctx)
	if err != nil {
		return err
	}
	for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "NONSENSE"} {
		got, _, err := answered(ctx, method, u, upgrade("v4.channel.k8s.io")...)
		if err = wantStatus(got, err, http.StatusMethodNotAllowed); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
	}
	return e.runAt(ctx, u, session{stdout: io.Discard}) // none of these has used the token up
}

func noUpgrade(ctx context.Context, e *env) error {
	for what, header := range map[string][]string{
		"nothing":            nil,
		"a version alone":    {"X-Stream-Protocol-Version: v4.channel.k8s.io"},
		"no version":         upgradeSPDY,
		"an empty version":   upgrade(""),
		"another protocol":   {"Connection: Upgrade", "Upgrade: h2c", "X-Stream-Protocol-Version: v4.channel.k8s.io"},
		"Upgrade alone":      {"Upgrade: SPDY/3.1", "X-Stream-Protocol-Version: v4.channel.k8s.io"},
		"no websocket's key": {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"},
	} {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		got, _, err := answered(ctx, "GET", u, header...)
		if err = wantStatus(got, err, http.StatusBadRequest); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

const acceptedVersions = "X-Accepted-Stream-Protocol-Versions"

// A version that the server does not know is refused, with those that it does.
func wrongVersion(ctx context.Context, e *env) error {
	for _, versions := range [][]string{{"v9.channel.k8s.io"}, {"v6.channel.k8s.io, V4.CHANNEL.K8S.IO"}, {"portforward.k8s.io"}, {"x", "y"}} {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		got, header, err := answered(ctx, "POST", u, upgrade(versions...)...)
		if err = wantStatus(got, err, http.StatusForbidden); err != nil {
			return fmt.Errorf("%q: %w", versions, err)
		}
		list := strings.Join(header.Values(acceptedVersions), ",")
		for _, known := range []string{"v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"} {
			if !strings.Contains(list, known) {
				return fmt.Errorf("%s says %q", acceptedVersions, list)
			}
		}
	}
	u, err := e.target.forward(ctx, "main")
	if err != nil {
		return err
	}
	got, header, err := answered(ctx, "POST", u, upgrade("v4.channel.k8s.io")...)
	return errors.Join(wantStatus(got, err, http.StatusForbidden),
		want(acceptedVersions, strings.Join(header.Values(acceptedVersions), ","), "portforward.k8s.io"))
}

// The client's first choice that the server knows is taken, from a list and from many headers.
func versionList(ctx context.Context, e *env) error {
	for wanted, versions := range map[string][]string{
		"v4.channel.k8s.io": {"v9.channel.k8s.io, v4.channel.k8s.io,v3.channel.k8s.io"},
		"v3.channel.k8s.io": {"nonsense", "v3.channel.k8s.io", "v4.channel.k8s.io"},
		"channel.k8s.io":    {"channel.k8s.io"},
	} {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		r, c, err := request(ctx, "POST", u, upgrade(versions...)...)
		if err != nil {
			return err
		}
		c.Close()
		err = errors.Join(wantStatus(r.StatusCode, nil, http.StatusSwitchingProtocols),
			want("version", r.Header.Get("X-Stream-Protocol-Version"), wanted), want("Upgrade", r.Header.Get("Upgrade"), "SPDY/3.1"))
		if err != nil {
			return fmt.Errorf("%q: %w", versions, err)
		}
	}
	return nil
}

func wrongSubprotocol(ctx context.Context, e *env) error {
	for _, protocols := range []string{"v9.channel.k8s.io", "chat, superchat", "SPDY/3.1+v4.channel.k8s.io"} {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		got, _, err := answered(ctx, "GET", u, upgradeWebsocket(protocols)...)
		if err = wantStatus(got, err, http.StatusForbidden); err != nil {
			return fmt.Errorf("%q: %w", protocols, err)
		}
	}
	return nil
}

// A head without end is cut off, and others are served meanwhile and afterwards.
func headerBomb(ctx context.Context, e *env) error {
	u, err := e.trueAt(ctx)
	if err != nil {
		return err
	}
	c, err := plain(ctx, u)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n", u.RequestURI())
	const most = 16 << 20
	sent := 0
	for i := 0; sent < most; i++ {
		n, err := fmt.Fprintf(c, "X-Header-%d: %s\r\n", i, strings.Repeat("a", 1000))
		if err != nil {
			break
		}
		sent += n
	}
	if sent >= most {
		return fmt.Errorf("a head of %d bytes was read", sent)
	}
	return e.serves(ctx)
}

// streams of one SPDY session, opened by hand.
func (e *env) connectSPDY(ctx context.Context, u *url.URL, versions ...string) (httpstream.Connection, error) {
	rt, upgrader, err := spdytransport.RoundTripperFor(&restclient.Config{TLSClientConfig: restclient.TLSClientConfig{Insecure: true}})
	if err != nil {
		return nil, err
	}
	c, _, err := spdytransport.NewDialerForStreaming(upgrader, &http.Client{Transport: rt}, http.MethodPost, u).Dial(versions...)
	if err == nil {
		e.later(func() { c.Close() })
	}
	return c, err
}

func streamOf(c httpstream.Connection, kind string) (httpstream.Stream, error) {
	h := http.Header{}
	h.Set(core.StreamType, kind)
	return c.CreateStream(h)
}

func unknownType(ctx context.Context, e *env) error {
	u, err := e.target.exec(ctx, "shell", []string{"sleep", "9191"}, outOnly)
	if err != nil {
		return err
	}
	c, err := e.connectSPDY(ctx, u, "v4.channel.k8s.io")
	if err != nil {
		return err
	}
	if _, err = streamOf(c, core.StreamTypeError); err != nil {
		return err
	}
	s, err := streamOf(c, "nonsense")
	if err == nil { // taken, perhaps, but then it or the connection ends
		end, cancel := context.WithTimeout(ctx, 40*time.Second)
		defer cancel()
		if _, err = readAll(end, s); err != nil && end.Err() != nil {
			return errors.New("a stream of an unknown type stays open")
		}
	}
	return errors.Join(e.gone(ctx, "sleep 9191"), e.serves(ctx))
}

// A client that does not open all streams in time is let go, and its command never runs.
func missingStreams(ctx context.Context, e *env) error {
	u, err := e.target.exec(ctx, "shell", []string{"sleep", "9292"}, streamSet{true, true, true, false})
	if err != nil {
		return err
	}
	c, err := e.connectSPDY(ctx, u, "v4.channel.k8s.io")
	if err != nil {
		return err
	}
	if _, err = streamOf(c, core.StreamTypeError); err != nil {
		return err
	}
	began := time.Now()
	select {
	case <-c.CloseChan():
	case <-time.After(60 * time.Second):
		return errors.New("the connection is open after a minute")
	case <-ctx.Done():
		return ctx.Err()
	}
	if took := time.Since(began); took < 20*time.Second {
		return fmt.Errorf("the client was given %s, not 30 s", took)
	}
	return errors.Join(e.gone(ctx, "sleep 9292"), e.serves(ctx))
}

// gone waits until no process of the container has this command line.
func (e *env) gone(ctx context.Context, command string) error {
	return until(ctx, fmt.Sprintf("%q is gone from the container", command), 15*time.Second, func() error {
		text, err := e.cri().execSync(ctx, e.cri().id("shell"), "ps", "-o", "args")
		if err == nil && strings.Contains(text, command) {
			err = errors.New("it runs")
		}
		return err
	})
}

// Bytes that are no protocol end the connection and the command.
func garbage(ctx context.Context, e *env) error {
	for i := range 20 {
		u, err := e.target.exec(ctx, "shell", []string{"sleep", "9393"}, outOnly)
		if err != nil {
			return err
		}
		header, name := upgrade("v4.channel.k8s.io"), "SPDY"
		if i%2 == 1 {
			header, name = upgradeWebsocket("v4.channel.k8s.io"), "a websocket"
		}
		r, c, err := request(ctx, "GET", u, header...)
		if err != nil {
			return err
		}
		if err = wantStatus(r.StatusCode, nil, http.StatusSwitchingProtocols); err != nil {
			return err
		}
		source := rand.New(rand.NewPCG(1, uint64(i)))
		bytes := make([]byte, 4096)
		for j := range bytes {
			bytes[j] = byte(source.Uint32())
		}
		bytes[0] |= 0x80 // a control frame of SPDY, the end of a message of a websocket
		_, _ = c.Write(bytes)
		_ = c.SetDeadline(time.Now().Add(45 * time.Second))
		_, err = io.Copy(io.Discard, c)
		c.Close()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return fmt.Errorf("number %d: %s stays open after 4096 bytes of garbage", i, name)
		}
	}
	return errors.Join(e.gone(ctx, "sleep 9393"), e.serves(ctx))
}
