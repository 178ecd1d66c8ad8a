package main

import (
	"context"
	"fmt"
	"net/url"

	restclient "k8s.io/client-go/rest"
)

// streamSet is which streams a session has.
type streamSet struct{ stdin, stdout, stderr, tty bool }

// What the pods hold. The containers that cases share:
//
//	shell    `serve` as its first process, listening from firstPort; commands are run there
//	talker   writes numbered lines, odd ones on standard error, ten times a second
//	reader   `cat` with a standard input that stays open
//	tty      `sh` on a terminal
//	host     `serve` in a pod of the host's network, listening from hostPort
const (
	firstPort = 8000
	hostPort  = 18000

	talkerScript = `i=0; while :; do i=$((i+1)); echo "line $i"; echo "even $i" >&2; sleep 0.1; done`
)

// containerSpec is a container as both the CRI and a manifest can have it.
type containerSpec struct {
	name                 string
	command              []string
	stdin, stdinOnce     bool
	tty, ofHost, started bool
}

const inContainerPath = "/streams"

// fixtures are the containers that cases share.
var fixtures = []containerSpec{
	{name: "shell", command: []string{inContainerPath, "in-container", "serve", "--port", fmt.Sprint(firstPort)}},
	{name: "talker", command: []string{"sh", "-c", talkerScript}},
	{name: "reader", command: []string{"cat"}, stdin: true},
	{name: "tty", command: []string{"sh"}, stdin: true, tty: true},
	{name: "host", command: []string{inContainerPath, "in-container", "serve", "--port", fmt.Sprint(hostPort)}, ofHost: true},
}

// target is where sessions are asked for: a runtime itself, or a kubelet in front of it.
type target interface {
	// exec, attach and forward give the address that a client connects to. A container is named by its fixture, or by
	// its id.
	exec(ctx context.Context, container string, command []string, s streamSet) (*url.URL, error)
	attach(ctx context.Context, container string, s streamSet) (*url.URL, error)
	// forward: pod is "main" or "host"; ports are for the websocket's channels.
	forward(ctx context.Context, pod string, ports ...int32) (*url.URL, error)
	// config says how a client authenticates.
	config() *restclient.Config
	// excuse says why a case is not run here; "" if it is.
	excuse(c chosenCase) string
	close()
}
