// streams drives a CRI runtime's streaming endpoint as Kubernetes' own clients do: client-go's executors and
// port-forward, over SPDY and over websockets, and single requests by hand where a client would not make them.
//
//	streams --endpoint unix:///run/x.sock --image IMAGE --self PATH [--transport ...] [--filter ...] [--restart COMMAND]
//	streams --kubelet https://127.0.0.1:10250 --pod NAMESPACE/NODE ...
//	streams --list
//	streams --manifest --image IMAGE --self PATH     the static pods that --kubelet expects, as files here
//	streams --endpoint ... --bench all               figures as JSON
//
// Each case is one line, `ok NAME TRANSPORT` or `FAIL NAME TRANSPORT: why`; the last line is
// `streams: P passed, F failed, S skipped`. Exit code 0: none failed.
//
// The same program is what runs in the test containers: `streams in-container ...` (see container.go).
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

// options are the program's flags.
type options struct {
	endpoint, kubelet, pod    string
	image, self, handler      string
	transport, filter, bench  string
	restart, logs, cgroup     string
	runtime                   string
	list, manifest, verbose   bool
	bytes                     int64
	repeat, sessions, threads int
	idle, probes              time.Duration
}

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "in-container":
			os.Exit(inContainer(os.Args[2:]))
		case "hold":
			os.Exit(hold(os.Args[2:]))
		}
	}
	var o options
	flag.StringVar(&o.endpoint, "endpoint", "", "the runtime's CRI socket, unix:///...")
	flag.StringVar(&o.kubelet, "kubelet", "", "a kubelet's address, https://...; the pod is then one that it runs")
	flag.StringVar(&o.pod, "pod", "default/node", "with --kubelet: the namespace of the pods made from --manifest, and their node's name")
	flag.StringVar(&o.image, "image", "registry.k8s.io/e2e-test-images/busybox:1.29-2", "image of the containers; busybox")
	flag.StringVar(&o.self, "self", "", "this program as the runtime finds it, for the containers' mounts (default: itself)")
	flag.StringVar(&o.handler, "handler", "", "RuntimeClass handler of the pods")
	flag.StringVar(&o.transport, "transport", "both", "spdy, websocket (v5), websocket4 (v4.channel.k8s.io, exec and attach), both (the first two) or all")
	flag.StringVar(&o.filter, "filter", "", "regular expression: only the cases whose `NAME TRANSPORT` matches")
	flag.BoolVar(&o.list, "list", false, "say the cases and end")
	flag.BoolVar(&o.manifest, "manifest", false, "write the pods that --kubelet expects into the working directory, and end")
	flag.BoolVar(&o.verbose, "v", false, "client-go's own log on standard error")
	flag.Int64Var(&o.bytes, "bytes", 64<<20, "bytes of a big transfer")
	flag.IntVar(&o.repeat, "repeat", 1000, "repetitions of sessions in sequence")
	flag.IntVar(&o.sessions, "sessions", 100, "with --bench: idle sessions whose memory is measured")
	flag.IntVar(&o.threads, "parallel", 4, "sessions at once where a case makes many")
	flag.DurationVar(&o.idle, "idle", 15*time.Second, "how long an idle session is left alone")
	flag.DurationVar(&o.probes, "probes", 10*time.Second, "how long ExecSync is called 200 times a second")
	flag.StringVar(&o.restart, "restart", "", "program that obeys `kill` (SIGKILL), `stop` (SIGTERM) and `start` of the daemon; only the restart cases are run then")
	flag.StringVar(&o.runtime, "runtime", "", "name of the runtime behind --kubelet")
	flag.StringVar(&o.logs, "logs", "", "directory for the containers' logs (default: a temporary one)")
	flag.StringVar(&o.cgroup, "cgroup-parent", "/peapod-test-streams", "cgroup of the pods")
	flag.StringVar(&o.bench, "bench", "", "measure instead: latency,throughput,forward,memory or all; prints JSON")
	flag.Parse()
	if flag.NArg() > 0 {
		fatal("no argument is expected: %s", flag.Arg(0))
	}
	quiet(o.verbose)
	if o.self == "" {
		self, err := os.Executable()
		if err != nil {
			fatal("where is this program: %v", err)
		}
		o.self = self
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code := run(ctx, o)
	stop()
	os.Exit(code)
}

// run is the program behind its flags; its result is the exit code.
func run(ctx context.Context, o options) int {
	if o.manifest {
		return printManifest(o)
	}
	chosen, err := choose(o)
	if err != nil {
		fatal("%v", err)
	}
	if o.list {
		for _, c := range chosen {
			fmt.Println(c.label())
		}
		return 0
	}
	t, err := open(ctx, o)
	if err != nil {
		fmt.Fprintf(os.Stderr, "streams: %v\n", err)
		return 1
	}
	defer t.close()
	if o.bench != "" {
		return bench(ctx, t, o)
	}
	return report(ctx, t, o, chosen)
}

// open connects to what the flags name and makes the pods there.
func open(ctx context.Context, o options) (target, error) {
	switch {
	case o.endpoint != "" && o.kubelet != "":
		return nil, fmt.Errorf("--endpoint or --kubelet, not both")
	case o.endpoint != "":
		return openCRI(ctx, o)
	case o.kubelet != "":
		return openKubelet(ctx, o)
	}
	return nil, fmt.Errorf("--endpoint or --kubelet is needed")
}

// chosenCase is a case and the transport that it is run over.
type chosenCase struct {
	testCase
	over transport
}

func (c chosenCase) label() string { return c.name + " " + string(c.over) }

// choose says which cases the flags ask for, in their order.
func choose(o options) ([]chosenCase, error) {
	filter, err := regexp.Compile(o.filter)
	if err != nil {
		return nil, fmt.Errorf("--filter: %w", err)
	}
	var over []transport
	switch o.transport {
	case "both":
		over = []transport{spdy, websocket5}
	case "all":
		over = []transport{spdy, websocket5, websocket4}
	case string(spdy), string(websocket5), string(websocket4):
		over = []transport{transport(o.transport)}
	default:
		return nil, fmt.Errorf("--transport: spdy, websocket, websocket4, both or all, not %q", o.transport)
	}
	var chosen []chosenCase
	for _, c := range cases {
		for _, t := range over {
			if !c.runsHere(o) || !c.runsOver(t) {
				continue
			}
			if cc := (chosenCase{c, t}); filter.MatchString(cc.label()) {
				chosen = append(chosen, cc)
			}
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no case matches")
	}
	return chosen, nil
}

// report runs the cases one after the other and says how each ended.
func report(ctx context.Context, t target, o options, chosen []chosenCase) int {
	var passed, failed, skipped int
	for _, c := range chosen {
		if ctx.Err() != nil {
			failed++
			fmt.Println("FAIL interrupted")
			break
		}
		if why := t.excuse(c); why != "" {
			skipped++
			fmt.Printf("skip %s: %s\n", c.label(), why)
			continue
		}
		began := time.Now()
		err := runCase(ctx, t, o, c)
		took := time.Since(began).Seconds()
		if err != nil {
			failed++
			fmt.Printf("FAIL %s: %s (%.1f s)\n", c.label(), oneLine(err.Error()), took)
			continue
		}
		passed++
		fmt.Printf("ok %s (%.1f s)\n", c.label(), took)
	}
	fmt.Printf("streams: %d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if failed > 0 || passed == 0 {
		return 1
	}
	return 0
}

// runCase gives a case its time and an environment of its own.
func runCase(ctx context.Context, t target, o options, c chosenCase) (err error) {
	limit := c.limit
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	e := &env{target: t, over: c.over, options: o}
	defer func() {
		if p := recover(); p != nil { // client-go panics on some protocol errors
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	defer e.cleanUp()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("panic: %v", p)
			}
		}()
		done <- c.run(ctx, e)
	}()
	select {
	case err = <-done:
	case <-time.After(limit + 5*time.Second): // a client that does not heed its context
		err = fmt.Errorf("hangs: no end %s after its time", 5*time.Second)
	}
	return err
}

// quiet keeps client-go's log to itself: what matters of it comes back as an error.
func quiet(verbose bool) {
	fs := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(fs)
	_ = fs.Set("logtostderr", "false")
	_ = fs.Set("alsologtostderr", "false")
	_ = fs.Set("stderrthreshold", "FATAL")
	klog.SetOutput(io.Discard)
	if verbose {
		_ = fs.Set("v", "6")
		klog.SetOutput(os.Stderr)
	}
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 600 {
		s = s[:600] + "..."
	}
	return s
}

func fatal(format string, a ...any) {
	fmt.Fprintf(os.Stderr, "streams: "+format+"\n", a...)
	os.Exit(2)
}
