package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A runtime's own processes, by their names or those of their programs: a shim may have left its program's path behind.
var programs = regexp.MustCompile(`^(peapod|containerd|runc|crun)`)

// processes of the runtime: the daemon, and all by such names that live in this network namespace. Those of another
// runtime on the same machine have another one.
func (c *criTarget) processes() ([]int, error) {
	daemon, err := c.peerPID()
	if err != nil {
		return nil, err
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	found := []int{daemon}
	for _, pid := range allPIDs() {
		dir := "/proc/" + strconv.Itoa(pid)
		exe, err := os.Readlink(dir + "/exe")
		if err != nil || pid == daemon {
			continue
		}
		if _, _, name := processState(pid); !programs.MatchString(filepath.Base(exe)) && !programs.MatchString(name) {
			continue
		}
		if net, err := os.Readlink(dir + "/ns/net"); err == nil && net == home {
			found = append(found, pid)
		}
	}
	return found, nil
}

func allPIDs() []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pss is the memory of a process in kB, shared pages by share; 0 if it is gone.
func pss(pid int) int {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/smaps_rollup")
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(text), "\n") {
		var kb int
		if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kb); n == 1 {
			return kb
		}
	}
	return 0
}

// memory of the runtime's processes together in kB; false where it cannot be known.
func (e *env) memory() (int, bool) {
	c, ok := e.target.(*criTarget)
	if !ok {
		return 0, false
	}
	pids, err := c.processes()
	if err != nil {
		return 0, false
	}
	sum := 0
	for _, pid := range pids {
		sum += pss(pid)
	}
	return sum, true
}

// descriptors that the runtime's processes have open together.
func (c *criTarget) descriptors() (int, error) {
	pids, err := c.processes()
	if err != nil {
		return 0, err
	}
	n := 0
	for _, pid := range pids {
		open, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
		if err == nil {
			n += len(open)
		}
	}
	return n, nil
}

// descriptorsAre waits until no more are open than before.
func (c *criTarget) descriptorsAre(ctx context.Context, before int, patience time.Duration) error {
	const slack = 4 // a connection of the CRI's own, or a request on its way
	return until(ctx, "as many descriptors are open as before", patience, func() error {
		now, err := c.descriptors()
		if err == nil && now > before+slack {
			err = fmt.Errorf("%d, not %d", now, before)
		}
		return err
	})
}

// listener is the process that listens on a TCP port of this network namespace.
func listener(port int) (int, error) {
	inode := ""
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, _ := os.ReadFile(table)
		for _, line := range strings.Split(string(text), "\n") {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				inode = f[9]
			}
		}
	}
	if inode == "" {
		return 0, fmt.Errorf("nobody listens on port %d", port)
	}
	for _, pid := range allPIDs() {
		links, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
		for _, link := range links {
			if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("no process has the socket of port %d", port)
}

// processState is the state, the parent and the name of a process.
func processState(pid int) (state string, parent int, name string) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", 0, ""
	}
	open, end := strings.IndexByte(string(text), '('), strings.LastIndexByte(string(text), ')')
	_, _ = fmt.Sscan(string(text[end+1:]), &state, &parent)
	return state, parent, string(text[open+1 : end])
}
