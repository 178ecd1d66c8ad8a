package main

import (
	"context"
	"slices"
	"time"
)

// need is what a case cannot do without.
type need uint

const (
	halfClose need = 1 << iota // the client tells the end of its input: not in v4.channel.k8s.io
	onCRI                      // the runtime's own endpoint, not a kubelet's
	onKubelet                  // the other way round
	forwards                   // port-forward
	spdyOnly                   // the transport is fixed by the case itself: run once
	restarts                   // --restart
)

// testCase is one thing that must be so.
type testCase struct {
	name  string
	needs need
	limit time.Duration // a minute if zero
	run   func(context.Context, *env) error
}

// runsHere: a kubelet has no part of its runtime's own, and the daemon is ended only where that is asked for.
func (c testCase) runsHere(o options) bool {
	if c.needs&restarts != 0 || o.restart != "" {
		return c.needs&restarts != 0 && o.restart != "" && o.kubelet == ""
	}
	if o.kubelet != "" {
		return c.needs&onCRI == 0
	}
	return c.needs&onKubelet == 0
}

func (c testCase) runsOver(t transport) bool {
	switch t {
	case websocket5:
		return c.needs&spdyOnly == 0
	case websocket4:
		return c.needs&(halfClose|forwards|spdyOnly|restarts) == 0
	}
	return true
}

// cases are all, in the order in which they run.
var cases = slices.Concat(execCases, ttyCases, attachCases, forwardCases, requestCases, versionCases, lifeCases, restartCases)

// exception is a case that a runtime is known not to pass, and why. peapod has none.
type exception struct {
	runtime, name string
	over          transport // "": every one
	direct        bool      // at the runtime's own endpoint only: a kubelet in front of it makes it good
	reason        string
}

var exceptions = []exception{
	{runtime: "containerd", name: "*", over: websocket5, direct: true, reason: "its server knows neither v5.channel.k8s.io nor SPDY in a websocket: 403 (containerd#11136)"},
	{runtime: "containerd", name: "exec-stdin-refused", reason: "a process that closes its input holds its session for ever"},
	{runtime: "containerd", name: "exec-stdin-unread", reason: "now and then the end of a process is not told to a client that goes on writing"},
	{runtime: "containerd", name: "forward-half-close", reason: "a client's half-close is not passed on: the connection is closed a second later"},
	{runtime: "containerd", name: "forward-big-in", reason: "a client's half-close is not passed on"},
	{runtime: "containerd", name: "forward-ipv6-only", reason: "it dials the name localhost, which is the host's own: ::1 is tried only if /etc/hosts has it"},
	{runtime: "containerd", name: "call-bad-fields", reason: "an empty id is of code Unknown"},
	{runtime: "containerd", name: "token-is-long", reason: "its tokens have 48 bits"},
	{runtime: "containerd", name: "stream-of-unknown-type", reason: "such a stream is ignored, and the others are waited for"},
	{runtime: "containerd", name: "stream-missing", reason: "the connection stays open when the wait is over"},
	{runtime: "containerd", name: "spdy-v1", reason: "the error stream is reset as it is opened, so an error is never told"},
	{runtime: "containerd", name: "garbage-after-upgrade", reason: "the process outlives a websocket's client"},
	{runtime: "containerd", name: "client-vanishes", reason: "the process outlives a client that is gone before its start is over"},
	{runtime: "containerd", name: "client-killed", reason: "the process may outlive its client"},
	{runtime: "containerd", name: "client-killed-nohup", reason: "on a terminal it is killed"},
	{runtime: "containerd", name: "tty-output", over: websocket4, reason: "what a process writes just before its end is lost now and then"},
	{runtime: "containerd", name: "attach-exit", reason: "what a container writes just before its end is lost now and then"},
	{runtime: "containerd", name: "attach-slow-reader", reason: "a client that takes nothing holds its container for ever"},
	{runtime: "containerd", name: "client-cancelled", reason: "the process may outlive its client"},
	{runtime: "containerd", name: "execsync-rate", reason: "a runc for each probe: at 200 a second it falls behind"},
	{runtime: "containerd", name: "client-killed-children", reason: "only the command itself is killed"},
}

func excuse(runtime string, direct bool, c chosenCase) string {
	for _, x := range exceptions {
		if x.runtime == runtime && (x.name == c.name || x.name == "*") && (x.over == "" || x.over == c.over) && (direct || !x.direct) {
			return x.reason
		}
	}
	return ""
}
