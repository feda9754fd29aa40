package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"time"

	"golang.org/x/sys/unix"
)

// download is a request that is being answered.
type download struct {
	body *background // its out is the body
}

// startDownload asks the nginx in pid's network namespace, and returns once it has begun to answer.
// The namespace has nothing but a loopback, so the request has to come from inside; and it must not be
// a process of the container, which would end with it.
func startDownload(ctx context.Context, pid int, path string) (*download, error) {
	client := &http.Client{Timeout: ctrLimit, Transport: &http.Transport{
		DisableKeepAlives: true, // an idle connection would be one more thing for nginx to wait for
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialInside(ctx, pid, network, addr)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	return &download{body: inBackground(func() (string, error) {
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return string(body), err
	})}, nil
}

// dialInside makes a connection in another network namespace: a socket stays where it was made.
func dialInside(ctx context.Context, pid int, network, addr string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread is in the wrong namespace now, and ends with this goroutine.
		goruntime.LockOSThread()
		if err = enterNetNS(pid); err == nil {
			conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr)
		}
	}()
	<-done // the dial has its time limit
	return conn, err
}

func enterNetNS(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the container's network namespace: %w", err)
	}
	return nil
}
