package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// What listens in a test container, as offsets from its first port.
const (
	portEcho    = iota // gives back what it gets; 127.0.0.1 and ::1
	portDigest         // reads to the end, then sends the SHA-256 of it in hexadecimal
	portFirst          // sends firstBytes of noise(7) and closes, whatever it gets
	portIPv6           // echo on ::1 alone
	portSource         // reads a number in a line, then sends so many bytes of noise(1)
	portFamily         // says "4" on 127.0.0.1 and "6" on ::1
	portOpen           // says how many connections of portEcho are open
	portReset          // sends "partial" and resets the connection
	portZero           // reads a number in a line, then sends so many zeros
	portCount          // reads to the end, then says how many bytes these were
	portNothing        // nobody listens here
	portsInAll
)

const firstBytes = 1 << 20

// noise is a stream of bytes that both ends can make: no zeros to compress, no order to hide a swap.
func noise(seed byte) io.Reader {
	var key [32]byte
	key[0] = seed
	return rand.NewChaCha8(key)
}

// digest is the SHA-256 of what the reader gives.
func digest(r io.Reader) (string, int64, error) {
	h := sha256.New()
	n, err := io.CopyBuffer(h, r, make([]byte, 256<<10))
	return hex.EncodeToString(h.Sum(nil)), n, err
}

// inContainer is what the program does in a test container.
func inContainer(args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "in-container: serve, wait, noise, count or digest")
		return 2
	}
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	port := f.Int("port", 8000, "the first port")
	bytes := f.Int64("bytes", 1<<20, "how many")
	seed := f.Int("seed", 1, "which noise")
	_ = f.Parse(args[1:])
	var err error
	switch args[0] {
	case "serve":
		err = serve(*port)
	case "wait": // until serve has all its ports
		err = awaitPort(net.JoinHostPort("127.0.0.1", strconv.Itoa(*port+portCount)))
	case "noise":
		_, err = io.CopyBuffer(os.Stdout, io.LimitReader(noise(byte(*seed)), *bytes), make([]byte, 64<<10))
	case "count":
		var n int64
		if n, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{os.Stdin}, make([]byte, 64<<10)); err == nil {
			fmt.Println(n)
		}
	case "digest":
		var sum string
		var n int64
		if sum, n, err = digest(os.Stdin); err == nil {
			fmt.Printf("%s %d\n", sum, n)
		}
	default:
		err = fmt.Errorf("no verb %q", args[0])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "in-container %s: %v\n", args[0], err)
		return 1
	}
	return 0
}

func awaitPort(addr string) error {
	for range 200 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("nobody listens on %s", addr)
}

// reap waits for orphans, which are the first process's to wait for.
func reap() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

// serve listens on the ports above until it is killed.
func serve(first int) error {
	go reap()
	var open atomic.Int64
	echo := func(c *net.TCPConn) {
		open.Add(1)
		defer open.Add(-1)
		_, _ = io.Copy(c, c)
	}
	handlers := map[int]func(*net.TCPConn){
		portEcho: echo,
		portDigest: func(c *net.TCPConn) {
			if sum, _, err := digest(c); err == nil {
				fmt.Fprintln(c, sum)
			}
		},
		portFirst: func(c *net.TCPConn) { _, _ = io.CopyN(c, noise(7), firstBytes) },
		portIPv6:  echo,
		portSource: func(c *net.TCPConn) {
			if n, err := number(bufio.NewReader(c)); err == nil {
				_, _ = io.CopyBuffer(c, io.LimitReader(noise(1), n), make([]byte, 64<<10))
			}
		},
		portFamily: func(c *net.TCPConn) {
			if c.LocalAddr().(*net.TCPAddr).IP.To4() != nil {
				fmt.Fprint(c, "4")
			} else {
				fmt.Fprint(c, "6")
			}
		},
		portOpen: func(c *net.TCPConn) { fmt.Fprint(c, open.Load()) },
		portReset: func(c *net.TCPConn) {
			fmt.Fprint(c, "partial")
			time.Sleep(300 * time.Millisecond) // a reset may overtake what was sent just before it
			_ = c.SetLinger(0)
		},
		portZero: func(c *net.TCPConn) {
			if n, err := number(bufio.NewReader(c)); err == nil {
				_, _ = io.CopyBuffer(struct{ io.Writer }{c}, io.LimitReader(zeros{}, n), make([]byte, 256<<10))
			}
		},
		portCount: func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			if n, err := number(r); err == nil {
				n, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(struct{ io.Reader }{r}, n), make([]byte, 256<<10))
				fmt.Fprintln(c, n)
			}
		},
	}
	for n := range portNothing {
		for _, host := range []string{"127.0.0.1", "::1"} {
			if n == portIPv6 && host == "127.0.0.1" {
				continue
			}
			l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(first+n)))
			if err != nil {
				return err
			}
			go accept(l, handlers[n])
		}
	}
	select {}
}

func accept(l net.Listener, handle func(*net.TCPConn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			handle(c.(*net.TCPConn))
		}()
	}
}

// number reads a line with a number.
func number(r *bufio.Reader) (int64, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(line), 10, 64)
}

// zeros reads as zeros, for ever.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// port is a port number as the streams' headers have it.
func port(first, offset int) string { return strconv.Itoa(first + offset) }
