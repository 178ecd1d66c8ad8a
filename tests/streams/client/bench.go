package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/streaming/pkg/httpstream"
)

// figure is what was measured, one value a repetition.
type figure struct {
	Unit    string    `json:"unit"`
	Samples []float64 `json:"samples"`
}

// bench prints the figures that --bench names.
func bench(ctx context.Context, t target, o options) int {
	e := &env{target: t, over: spdy, options: o}
	defer e.cleanUp()
	figures := map[string]*figure{}
	add := func(name, unit string, value float64) {
		f := figures[name]
		if f == nil {
			f = &figure{Unit: unit}
			figures[name] = f
		}
		f.Samples = append(f.Samples, value)
	}
	parts := map[string]func(context.Context, *env, func(string, string, float64)) error{
		"latency": benchLatency, "throughput": benchThroughput, "forward": benchForward, "memory": benchMemory}
	wanted := strings.Split(o.bench, ",")
	if o.bench == "all" {
		wanted = []string{"latency", "throughput", "forward", "memory"}
	}
	for _, name := range wanted {
		part := parts[name]
		if part == nil {
			fatal("--bench: no %q", name)
		}
		if err := part(ctx, e, add); err != nil {
			fmt.Fprintf(os.Stderr, "streams: %s: %v\n", name, err)
			return 1
		}
	}
	text, err := json.MarshalIndent(figures, "", " ")
	if err != nil {
		fatal("%v", err)
	}
	fmt.Println(string(text))
	return 0
}

// benchLatency: from the Exec call to the first byte of how `true` ended.
func benchLatency(ctx context.Context, e *env, add func(string, string, float64)) error {
	spdyOnce := func() error {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		c, err := e.connectSPDY(ctx, u, "v4.channel.k8s.io")
		if err != nil {
			return err
		}
		var s [2]httpstream.Stream
		for i, kind := range []string{core.StreamTypeError, core.StreamTypeStdout} {
			if s[i], err = streamOf(c, kind); err != nil {
				return err
			}
		}
		_, err = io.ReadFull(s[0], make([]byte, 1))
		return err
	}
	websocketOnce := func() error {
		u, err := e.trueAt(ctx)
		if err != nil {
			return err
		}
		w, err := e.wire(ctx, u, "v4.channel.k8s.io")
		if err != nil {
			return err
		}
		for channel := 0; channel != 3; {
			if channel, _, err = w.receive(); err != nil {
				return err
			}
		}
		return nil
	}
	for name, once := range map[string]func() error{"exec latency, SPDY": spdyOnce, "exec latency, websocket": websocketOnce} {
		for i := range e.repeat + 5 {
			began := time.Now()
			if err := once(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			took := time.Since(began)
			e.cleanUp() // the connection's end is not part of it
			if i >= 5 {
				add(name, "ms", float64(took.Microseconds())/1e3)
			}
		}
	}
	return nil
}

func perSecond(bytes int64, took time.Duration) float64 { return float64(bytes) / 1e6 / took.Seconds() }

const throughputRounds = 3

// benchThroughput: `cat` of zeros out of a container, and zeros into one that counts them.
func benchThroughput(ctx context.Context, e *env, add func(string, string, float64)) error {
	if _, err := e.sh(ctx, fmt.Sprintf("truncate -s %d /tmp/zeros", e.bytes)); err != nil {
		return err
	}
	for range throughputRounds {
		n := counter(0)
		began := time.Now()
		if err := e.run(ctx, session{container: "shell", command: []string{"cat", "/tmp/zeros"}, stdout: &n}); err != nil {
			return err
		}
		add("cat out of a container", "MB/s", perSecond(e.bytes, time.Since(began)))
		if int64(n) != e.bytes {
			return fmt.Errorf("%d of %d bytes came out", n, e.bytes)
		}
		began = time.Now()
		var said bytes.Buffer
		s := session{container: "shell", command: []string{inContainerPath, "in-container", "count"}, stdin: io.LimitReader(zeros{}, e.bytes), stdout: &said}
		if err := e.run(ctx, s); err != nil {
			return err
		}
		add("input into a container", "MB/s", perSecond(e.bytes, time.Since(began)))
		if err := want("bytes that went in", strings.TrimSpace(said.String()), fmt.Sprint(e.bytes)); err != nil {
			return err
		}
	}
	_, err := e.sh(ctx, "rm /tmp/zeros")
	return err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// benchForward: zeros out of a port and into one.
func benchForward(ctx context.Context, e *env, add func(string, string, float64)) error {
	local, err := e.listen(ctx, "main", firstPort+portZero, firstPort+portCount)
	if err != nil {
		return err
	}
	buffer := make([]byte, 256<<10)
	for range throughputRounds {
		c, err := dial(ctx, e, local[0])
		if err != nil {
			return err
		}
		began := time.Now()
		fmt.Fprintln(c, e.bytes)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, buffer)
		if err != nil || n != e.bytes {
			return fmt.Errorf("%d of %d bytes came out: %w", n, e.bytes, err)
		}
		add("port-forward out of a pod", "MB/s", perSecond(e.bytes, time.Since(began)))
		if c, err = dial(ctx, e, local[1]); err != nil {
			return err
		}
		began = time.Now()
		fmt.Fprintln(c, e.bytes)
		if _, err = io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(zeros{}, e.bytes), buffer); err != nil {
			return err
		}
		text, err := io.ReadAll(c)
		add("port-forward into a pod", "MB/s", perSecond(e.bytes, time.Since(began)))
		if err = errors.Join(err, want("bytes that went in", strings.TrimSpace(string(text)), fmt.Sprint(e.bytes))); err != nil {
			return err
		}
	}
	return nil
}

// benchMemory: what each of many idle sessions costs all of the runtime's processes.
func benchMemory(ctx context.Context, e *env, add func(string, string, float64)) error {
	open := func(n int) error {
		for range n {
			c, err := e.converse(ctx, session{container: "shell", command: []string{"cat"}})
			if err != nil {
				return err
			}
			if err = c.ask(ctx, "open", "open\n"); err != nil {
				return err
			}
		}
		return nil
	}
	if err := open(2); err != nil { // what the first one brings with it is not the others' cost
		return err
	}
	time.Sleep(2 * time.Second)
	before, counted := e.memory()
	if !counted {
		return errors.New("the runtime's processes are not to be found")
	}
	if err := open(e.sessions); err != nil {
		return err
	}
	time.Sleep(2 * time.Second)
	after, _ := e.memory()
	add("memory of an idle session", "kB PSS", float64(after-before)/float64(e.sessions))
	return nil
}
