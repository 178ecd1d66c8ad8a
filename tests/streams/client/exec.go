package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var execCases = []testCase{
	{name: "exec-output", run: execOutput},
	{name: "exec-exit-code", run: execExitCode},
	{name: "exec-signal", run: execSignal},
	{name: "exec-missing-binary", run: execMissing},
	{name: "exec-arguments", run: execArguments},
	{name: "exec-one-stream", run: execOneStream},
	{name: "exec-stdin-echo", run: execEcho},
	{name: "exec-stdin-half-close", needs: halfClose, run: execHalfClose},
	{name: "exec-stdin-empty", needs: halfClose, run: execEmptyInput},
	{name: "exec-stdin-silent", run: execSilent},
	{name: "exec-stdin-unread", needs: onCRI, run: execUnread},
	{name: "exec-stdin-refused", run: execRefusedInput},
	{name: "exec-output-then-end", limit: 4 * time.Minute, run: execInstant},
	{name: "exec-parallel", limit: 2 * time.Minute, run: execParallel},
	{name: "exec-big-out", limit: 10 * time.Minute, run: execBigOut},
	{name: "exec-big-in", needs: halfClose, limit: 10 * time.Minute, run: execBigIn},
	{name: "exec-big-both", needs: halfClose, limit: 10 * time.Minute, run: execBigBoth},
	{name: "exec-tar-both", needs: halfClose, limit: 10 * time.Minute, run: execTar},
	{name: "exec-slow-reader", limit: 4 * time.Minute, run: execSlow},
	{name: "exec-idle", limit: 10 * time.Minute, run: execIdle},
}

func execOutput(ctx context.Context, e *env) error {
	var out, errs bytes.Buffer
	s := session{container: "shell", command: []string{"sh", "-c", "echo to out; echo to err >&2; printf 'no end of line'"}, stdout: &out, stderr: &errs}
	if err := e.run(ctx, s); err != nil {
		return err
	}
	return errors.Join(want("standard output", out.String(), "to out\nno end of line"), want("standard error", errs.String(), "to err\n"))
}

func execExitCode(ctx context.Context, e *env) error {
	for _, code := range []int{0, 1, 42, 127, 137, 255} {
		_, err := e.sh(ctx, fmt.Sprintf("exit %d", code))
		if err = wantCode(err, code); err != nil {
			return err
		}
	}
	return nil
}

func execSignal(ctx context.Context, e *env) error {
	for name, number := range map[string]int{"KILL": 9, "TERM": 15, "SEGV": 11} {
		_, err := e.sh(ctx, "kill -"+name+" $$")
		if err = wantCode(err, 128+number); err != nil {
			return fmt.Errorf("SIG%s: %w", name, err)
		}
	}
	return nil
}

// A program that is not there ends in an error that names it: by which code is the runtime's own affair.
func execMissing(ctx context.Context, e *env) error {
	_, err := e.output(ctx, "shell", "no-such-program", "x")
	if err == nil {
		return errors.New("a program that does not exist ended well")
	}
	if !strings.Contains(err.Error(), "no-such-program") {
		return fmt.Errorf("the error does not name the program: %w", err)
	}
	return nil
}

func execArguments(ctx context.Context, e *env) error {
	words := []string{"", "two words", `"quoted" '\n' $HOME`, "dürüm", "a&b=c%20d;e", "--", "new\nline", strings.Repeat("long ", 4000)}
	out, err := e.output(ctx, "shell", append([]string{"printf", "%s|"}, words...)...)
	if err != nil {
		return err
	}
	return want("output", out, strings.Join(words, "|")+"|")
}

// A client may ask for any one stream; a process that writes to those that nobody asked for is not held up by it.
func execOneStream(ctx context.Context, e *env) error {
	both := []string{"sh", "-c", "head -c 1000000 /dev/zero >&2; head -c 1000000 /dev/zero; printf end; printf end >&2"}
	var out, errs bytes.Buffer
	if err := e.run(ctx, session{container: "shell", command: both, stdout: &out}); err != nil {
		return fmt.Errorf("standard output alone: %w", err)
	}
	if err := e.run(ctx, session{container: "shell", command: both, stderr: &errs}); err != nil {
		return fmt.Errorf("standard error alone: %w", err)
	}
	if out.Len() != 1000003 || errs.Len() != 1000003 {
		return fmt.Errorf("%d and %d bytes came, not 1000003 and 1000003", out.Len(), errs.Len())
	}
	err := e.run(ctx, session{container: "shell", command: []string{"sh", "-c", "read line; exit $line"}, stdin: strings.NewReader("9\n")})
	if err = wantCode(err, 9); err != nil {
		return fmt.Errorf("standard input alone: %w", err)
	}
	return nil
}

func execEcho(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", command: []string{"cat"}})
	if err != nil {
		return err
	}
	for _, line := range []string{"one", "two three", strings.Repeat("x", 100000)} {
		if err = c.ask(ctx, line, line+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// The client's end of input is the process's; its output and its end come after that.
func execHalfClose(ctx context.Context, e *env) error {
	sum, _, _ := digest(io.LimitReader(noise(3), 300000))
	var out, errs bytes.Buffer
	s := session{container: "shell", command: []string{"sh", "-c", "sha256sum; sleep 0.3; echo later; exit 3"},
		stdin: io.LimitReader(noise(3), 300000), stdout: &out, stderr: &errs}
	err := wantCode(e.run(ctx, s), 3)
	return errors.Join(err, want("output", out.String(), sum+"  -\nlater\n"), want("standard error", errs.String(), ""))
}

func execEmptyInput(ctx context.Context, e *env) error {
	var out bytes.Buffer
	s := session{container: "shell", command: []string{"wc", "-c"}, stdin: strings.NewReader(""), stdout: &out}
	if err := e.run(ctx, s); err != nil {
		return err
	}
	return want("output", strings.TrimSpace(out.String()), "0")
}

// A client that keeps its input open and says nothing does not keep its session open.
func execSilent(ctx context.Context, e *env) error {
	r, w := io.Pipe()
	defer w.Close()
	return wantCode(e.run(ctx, session{container: "shell", command: []string{"sh", "-c", "exit 2"}, stdin: r, stdout: io.Discard}), 2)
}

// A process that ends without reading ends the session, and the client learns how, whatever it still has to say. (A
// kubelet in between closes its connection to the client with unread bytes, which may reset it.)
func execUnread(ctx context.Context, e *env) error {
	for range 10 {
		var out bytes.Buffer
		s := session{container: "shell", command: []string{"sh", "-c", "echo said; exit 4"}, stdin: zeros{}, stdout: &out}
		if err := wantCode(e.run(ctx, s), 4); err != nil {
			return err
		}
		if err := want("output", out.String(), "said\n"); err != nil {
			return err
		}
	}
	return nil
}

// A process may close its input and go on.
func execRefusedInput(ctx context.Context, e *env) error {
	var out bytes.Buffer
	s := session{container: "shell", command: []string{"sh", "-c", "exec <&-; sleep 0.5; echo after; exit 5"},
		stdin: io.LimitReader(noise(1), 4<<20), stdout: &out}
	if err := wantCode(e.run(ctx, s), 5); err != nil {
		return err
	}
	return want("output", out.String(), "after\n")
}

// repeated runs a function many times, a few at once; the first error ends it.
func repeated(n, parallel int, f func(int) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var wg sync.WaitGroup
	for range parallel {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					once.Do(func() { first = fmt.Errorf("number %d of %d: %w", i, n, err) })
					next.Store(int64(n))
					return
				}
			}
		}()
	}
	wg.Wait()
	return first
}

// What a command writes just before it ends is never lost.
func execInstant(ctx context.Context, e *env) error {
	return repeated(e.repeat, e.threads, func(i int) error {
		text := fmt.Sprintf("%06d", i)
		var out, errs bytes.Buffer
		s := session{container: "shell", command: []string{"sh", "-c", "printf " + text + " >&2; printf " + text}, stdout: &out, stderr: &errs}
		if i%2 == 1 {
			s.command = []string{"printf", text + text}
		}
		if err := e.run(ctx, s); err != nil {
			return err
		}
		return want("output", out.String()+errs.String(), text+text)
	})
}

// Sessions at once do not see one another's bytes.
func execParallel(ctx context.Context, e *env) error {
	const n = 50
	return repeated(n, n, func(i int) error {
		c, err := e.converse(ctx, session{container: "shell", command: []string{"sh", "-c", "while read line; do echo \"$line\"; [ $line != quit ] || exit " + fmt.Sprint(i) + "; done"}})
		if err != nil {
			return err
		}
		for round := range 10 {
			var token [16]byte
			_, _ = rand.Read(token[:])
			line := fmt.Sprintf("%d-%d-%s", i, round, hex.EncodeToString(token[:]))
			if err = c.ask(ctx, line, line+"\n"); err != nil {
				return err
			}
		}
		if err = c.say("quit\n"); err != nil {
			return err
		}
		return wantCode(c.end(ctx), i)
	})
}

func execBigOut(ctx context.Context, e *env) error {
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		s := session{container: "shell", stdout: w,
			command: []string{inContainerPath, "in-container", "noise", "--bytes", fmt.Sprint(e.bytes), "--seed", "2"}}
		err := e.run(ctx, s)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	got, n, err := digest(r)
	if err = errors.Join(err, <-ended); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	sum, _, _ := digest(io.LimitReader(noise(2), e.bytes))
	return errors.Join(want("number of bytes", fmt.Sprint(n), fmt.Sprint(e.bytes)), want("SHA-256", got, sum))
}

func execBigIn(ctx context.Context, e *env) error {
	var out bytes.Buffer
	s := session{container: "shell", command: []string{inContainerPath, "in-container", "digest"}, stdin: io.LimitReader(noise(4), e.bytes), stdout: &out}
	if err := e.run(ctx, s); err != nil {
		return err
	}
	sum, n, _ := digest(io.LimitReader(noise(4), e.bytes))
	return want("digest and size", out.String(), fmt.Sprintf("%s %d\n", sum, n))
}

func execBigBoth(ctx context.Context, e *env) error {
	got, n, err := e.through(ctx, io.LimitReader(noise(5), e.bytes))
	if err != nil {
		return err
	}
	sum, _, _ := digest(io.LimitReader(noise(5), e.bytes))
	return errors.Join(want("number of bytes", fmt.Sprint(n), fmt.Sprint(e.bytes)), want("SHA-256", got, sum))
}

// through sends the reader through `cat`; digest and size of what comes back.
func (e *env) through(ctx context.Context, in io.Reader) (string, int64, error) {
	r, w := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := e.run(ctx, session{container: "shell", command: []string{"cat"}, stdin: in, stdout: w})
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	got, n, err := digest(r)
	if err = errors.Join(err, <-ended); err != nil {
		return got, n, fmt.Errorf("after %d bytes: %w", n, err)
	}
	return got, n, nil
}

// execTar does what `kubectl cp` does, both ways: a tar into the container and back, every file compared.
func execTar(ctx context.Context, e *env) error {
	const small = 200
	sizes := map[string]int64{"d/big": e.bytes, "d/empty": 0}
	for i := range small {
		sizes[fmt.Sprintf("d/%03d", i)] = int64(i * 37)
	}
	seed := func(name string) byte { return name[len(name)-1] }
	r, w := io.Pipe()
	go func() {
		t := tar.NewWriter(w)
		err := t.WriteHeader(&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755})
		for name, size := range sizes {
			if err == nil {
				err = t.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o640, Size: size})
			}
			if err == nil {
				_, err = io.CopyN(t, noise(seed(name)), size)
			}
		}
		w.CloseWithError(errors.Join(err, t.Close()))
	}()
	dir := "/tmp/tar-" + string(e.over)
	if _, err := e.sh(ctx, "mkdir "+dir); err != nil {
		return err
	}
	e.later(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, _ = e.sh(ctx, "rm -rf "+dir)
	})
	var errs bytes.Buffer
	err := e.run(ctx, session{container: "shell", command: []string{"tar", "-xf", "-", "-C", dir}, stdin: r, stdout: io.Discard, stderr: &errs})
	if err != nil {
		return fmt.Errorf("into the container: %w: %s", err, errs.String())
	}
	r, w = io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := e.run(ctx, session{container: "shell", command: []string{"tar", "-cf", "-", "-C", dir, "d"}, stdout: w})
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("out of the container: %w (%d files to come)", err, len(sizes))
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		size, known := sizes[h.Name]
		if !known {
			return fmt.Errorf("out of the container: %q was not sent, or came twice", h.Name)
		}
		got, n, err := digest(t)
		sum, _, _ := digest(io.LimitReader(noise(seed(h.Name)), size))
		if err != nil || n != size || got != sum {
			return fmt.Errorf("%s: %d bytes of %d, error %v, digests equal: %v", h.Name, n, size, err, got == sum)
		}
		delete(sizes, h.Name)
	}
	_, _ = io.Copy(io.Discard, r) // the end of a tar is padded
	if err := <-ended; err != nil {
		return err
	}
	if len(sizes) > 0 {
		return fmt.Errorf("%d files did not come back", len(sizes))
	}
	return nil
}

// A reader that stops holds the process up, not the runtime's memory, and loses nothing.
func execSlow(ctx context.Context, e *env) error {
	const stall, most = 3 * time.Second, 24 << 10
	r, w := io.Pipe()
	ended := make(chan error, 1)
	bytesInAll := max(e.bytes, 32<<20)
	before, counted := e.memory()
	go func() {
		s := session{container: "shell", stdout: w,
			command: []string{inContainerPath, "in-container", "noise", "--bytes", fmt.Sprint(bytesInAll), "--seed", "6"}}
		err := e.run(ctx, s)
		w.CloseWithError(io.EOF)
		ended <- err
	}()
	head := make([]byte, 100000)
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	time.Sleep(stall)
	if after, _ := e.memory(); counted && after > before+most {
		return fmt.Errorf("the runtime's memory grew by %d kB while a reader stood still", after-before)
	}
	got, n, err := digest(io.MultiReader(bytes.NewReader(head), r))
	if err = errors.Join(err, <-ended); err != nil {
		return fmt.Errorf("after %d bytes: %w", n, err)
	}
	sum, _, _ := digest(io.LimitReader(noise(6), bytesInAll))
	return errors.Join(want("number of bytes", fmt.Sprint(n), fmt.Sprint(bytesInAll)), want("SHA-256", got, sum))
}

// A session that nobody uses stays.
func execIdle(ctx context.Context, e *env) error {
	c, err := e.converse(ctx, session{container: "shell", command: []string{"cat"}})
	if err != nil {
		return err
	}
	if err = c.ask(ctx, "before", "before\n"); err != nil {
		return err
	}
	time.Sleep(e.idle)
	return c.ask(ctx, "after", "after\n")
}
