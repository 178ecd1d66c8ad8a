package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	core "k8s.io/api/core/v1"
)

// counted runs what leaves at many points, and counts the runtime's descriptors and processes around it, and those of
// the container with this command line.
func (e *env) counted(ctx context.Context, command string, leave func() error) error {
	if err := e.serves(ctx); err != nil { // what is made at first use is there
		return err
	}
	c := e.cri()
	files, err := c.descriptors()
	if err != nil {
		return err
	}
	processes, err := c.processes()
	if err != nil {
		return err
	}
	if err = leave(); err != nil {
		return err
	}
	if err = e.gone(ctx, command); err != nil {
		return err
	}
	// What waits for missing streams may do so for 30 s.
	if err = errors.Join(c.descriptorsAre(ctx, files, 45*time.Second), e.serves(ctx)); err != nil {
		return err
	}
	now, err := c.processes()
	if err == nil && len(now) > len(processes) {
		err = fmt.Errorf("the runtime has %d processes, not %d", len(now), len(processes))
	}
	return errors.Join(err, noZombies(now))
}

// vanish leaves at every point of a SPDY session.
func vanish(ctx context.Context, e *env) error {
	return e.counted(ctx, "sleep 9494", func() error { return e.leaveSPDY(ctx) })
}

func (e *env) leaveSPDY(ctx context.Context) error {
	for range 10 {
		u, err := e.target.exec(ctx, "shell", []string{"sleep", "9494"}, streamSet{true, true, true, false})
		if err != nil {
			return err
		}
		c, err := plain(ctx, u)
		if err != nil {
			return err
		}
		c.Close() // before the request
		if c, err = plain(ctx, u); err != nil {
			return err
		}
		fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost:", u.RequestURI())
		c.Close() // in the request
		if _, c, err = request(ctx, "POST", u, upgrade("v4.channel.k8s.io")...); err != nil {
			return err
		}
		c.Close() // after the answer
		kinds := []string{core.StreamTypeError, core.StreamTypeStdin, core.StreamTypeStdout, core.StreamTypeStderr}
		for n := range kinds {
			if u, err = e.target.exec(ctx, "shell", []string{"sleep", "9494"}, streamSet{true, true, true, false}); err != nil {
				return err
			}
			s, err := e.connectSPDY(ctx, u, "v4.channel.k8s.io")
			if err != nil {
				return err
			}
			for _, kind := range kinds[:n+1] { // after so many streams
				if _, err = streamOf(s, kind); err != nil {
					return err
				}
			}
			s.Close()
		}
	}
	return nil
}

// masked is a websocket frame of a client, with a mask of zeroes.
func masked(opcode byte, payload string) string {
	return string([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
}

// vanishOnWebsocket leaves between and within frames, in good order and by a reset.
func vanishOnWebsocket(ctx context.Context, e *env) error {
	said := []string{"", "\x82", "\x82\x85\x00", masked(2, "\x00word")[:8], masked(2, "\x00word\n"), "\x02\x85\x00\x00\x00\x00\x00part",
		masked(2, "\x04{\"Width\":80,"), masked(2, "\xff\x00"), masked(9, "ping"), masked(8, "\x03\xe8"), "\xff\xff\xff\xff"}
	return e.counted(ctx, "sleep 9292", func() error {
		for i := range 4 * len(said) {
			u, err := e.target.exec(ctx, "shell", []string{"sleep", "9292"}, streamSet{true, true, i%2 == 0, i%2 == 1})
			if err != nil {
				return err
			}
			r, c, err := request(ctx, "GET", u, upgradeWebsocket("v5.channel.k8s.io")...)
			if err = wantUpgrade(r, err); err != nil {
				return err
			}
			_, _ = io.WriteString(c, said[i%len(said)])
			if tcp, isTCP := c.(*net.TCPConn); isTCP && i%3 == 0 {
				_ = tcp.SetLinger(0)
			}
			c.Close()
		}
		return nil
	})
}

func wantUpgrade(r *http.Response, err error) error {
	if err != nil {
		return err
	}
	return wantStatus(r.StatusCode, nil, http.StatusSwitchingProtocols)
}

// vanishFromForward leaves before, between and after the two streams of a connection, and while bytes are on their way.
func vanishFromForward(ctx context.Context, e *env) error {
	return e.counted(ctx, "sleep 9292", func() error {
		for i := range 20 {
			p, err := e.pairs(ctx, "main")
			if err != nil {
				return err
			}
			switch i % 4 {
			case 1:
				h := http.Header{}
				h.Set(core.StreamType, core.StreamTypeError)
				h.Set(core.PortHeader, port(firstPort, portEcho))
				h.Set(core.PortForwardRequestIDHeader, "0")
				_, err = p.CreateStream(h)
			case 2:
				_, _, err = p.open(port(firstPort, portEcho))
			case 3:
				_, data, openErr := p.open(port(firstPort, portEcho))
				if err = openErr; err == nil {
					_, err = data.Write(make([]byte, 100_000))
				}
			}
			p.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
}
