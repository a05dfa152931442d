package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/docker"
)

// engine asks the container engine with plain HTTP: what is left behind must not be counted by the code that removes it.
type engine struct {
	network, addr string
	client        *http.Client
}

// anEngine skips the test where no engine answers.
func anEngine(t *testing.T) *engine {
	t.Helper()
	if err := docker.Available(t.Context()); err != nil {
		t.Skipf("needs containers: %v", err)
	}
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	u, err := url.Parse(host)
	if err != nil || u.Scheme != "unix" && u.Scheme != "tcp" {
		t.Skipf("the engine is at %q, which this test cannot ask", host)
	}
	e := &engine{network: u.Scheme, addr: u.Host + u.Path}
	if _, err := e.dial(t.Context()); err != nil {
		t.Skipf("the engine is not where this test looks for it: %v", err)
	}
	e.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx) },
	}}
	return e
}

func (e *engine) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, e.network, e.addr)
}

// call sends a request and decodes the answer.
func (e *engine) call(t *testing.T, method, path string, body, into any) {
	t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	// Not the test's context: the last calls are made when that has ended.
	req, err := http.NewRequestWithContext(context.Background(), method, "http://engine"+path, r)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		t.Fatalf("ask the engine: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= http.StatusBadRequest && resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%s %s: status %d, %v: %s", method, path, resp.StatusCode, err, b)
	}
	if into != nil {
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, b)
		}
	}
}

// runOf is the label that carries a run's id; the id ends with the pid of the command.
const runOf = "io.unibus.run"

// things lists what the engine has of the run of that process.
type things struct{ containers, networks, volumes []string }

func (th things) count() int { return len(th.containers) + len(th.networks) + len(th.volumes) }

func (e *engine) things(t *testing.T, pid int) (th things) {
	t.Helper()
	type labelled struct {
		ID     string            `json:"Id"`
		Name   string            `json:"Name"`
		Labels map[string]string `json:"Labels"`
	}
	filter := "filters=" + url.QueryEscape(fmt.Sprintf(`{"label":[%q]}`, runOf))
	mine := func(ls []labelled) (names []string) {
		for _, l := range ls {
			if strings.HasSuffix(l.Labels[runOf], fmt.Sprintf("-%d", pid)) {
				names = append(names, l.Name+l.ID)
			}
		}
		slices.Sort(names)
		return names
	}
	var ls []labelled
	e.call(t, http.MethodGet, "/containers/json?all=1&"+filter, nil, &ls)
	th.containers = mine(ls)
	ls = nil
	e.call(t, http.MethodGet, "/networks?"+filter, nil, &ls)
	th.networks = mine(ls)
	var vs struct{ Volumes []labelled }
	e.call(t, http.MethodGet, "/volumes?"+filter, nil, &vs)
	th.volumes = mine(vs.Volumes)
	return th
}
