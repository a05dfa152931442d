package workload

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/unibus/unibus/reports/history"
)

// Settings of the sampler.
const (
	defaultHz      = 12
	sampleTimeout  = time.Second
	sampleBody     = 300 // bytes of an answer that are kept
	sampleInFlight = 3   // seconds' worth of samples that one probe may have out
)

// HealthSampler asks every node for its own opinion, at a fixed rate for each probe: a node that hangs delays neither the others nor the next sample of its own.
type HealthSampler struct {
	Hz      float64       // samples a second of each probe of each node; 0 means 12
	Timeout time.Duration // of one sample; 0 means 1 s
}

var _ Workload = (*HealthSampler)(nil)

// Name implements Workload.
func (w *HealthSampler) Name() string { return "health sampler" }

// Setup implements Workload.
func (w *HealthSampler) Setup(context.Context, *Env) error {
	w.Hz, w.Timeout = or(w.Hz, defaultHz), or(w.Timeout, sampleTimeout)
	return nil
}

// probe is one endpoint of one node.
type probe struct {
	node, name, url string
	client          *http.Client
}

// Run implements Workload.
func (w *HealthSampler) Run(ctx context.Context, e *Env) error {
	if w.Hz <= 0 {
		return errNotSetUp
	}
	// Every sample dials: a kept connection could lead to a life of the node that has ended, or outlive a listener that is closed.
	tr := &http.Transport{DisableKeepAlives: true, DisableCompression: true, Proxy: nil}
	defer tr.CloseIdleConnections()
	cl := &http.Client{
		Transport:     tr,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var probes []probe
	for _, n := range e.Cluster.Nodes() {
		ep := n.Endpoints()
		for _, p := range []probe{{name: "live", url: ep.Live}, {name: "ready", url: ep.Ready}} {
			if p.url != "" {
				p.node, p.client = string(n.ID()), cl
				probes = append(probes, p)
			}
		}
	}
	if len(probes) == 0 {
		return errors.New("sample health: no node has an endpoint")
	}
	var wg sync.WaitGroup
	for i, p := range probes {
		wg.Go(func() { w.sample(ctx, e, p, newPacer(w.Hz, i, len(probes))) })
	}
	wg.Wait()
	return nil
}

// sample polls one probe until ctx ends. Samples that are out then are waited for, and recorded.
func (w *HealthSampler) sample(ctx context.Context, e *Env, p probe, pc *pacer) {
	slots := make(chan struct{}, int(w.Hz*sampleInFlight*max(1, w.Timeout.Seconds()))+1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for pc.wait(ctx) {
		pc.catchUp() // a sample is of a moment: those that were missed are not made up for
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			e.Recorder.Health(p.ask(context.WithoutCancel(ctx), e.Recorder, w.Timeout))
		})
	}
}

// ask makes one sample. An answer counts only when its head and the kept part of its body arrived in time.
func (p probe) ask(ctx context.Context, rec *history.Recorder, timeout time.Duration) history.Health {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	h := history.Health{Node: p.node, Probe: p.name, At: rec.Now()}
	code, body, err := p.fetch(ctx)
	h.Took = rec.Now() - h.At
	if err != nil {
		h.Reason = "no answer: " + noAnswer(ctx, err)
		return h
	}
	h.Code, h.Reason = code, strings.TrimSpace(string(body))
	return h
}

func (p probe) fetch(ctx context.Context) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing more is wanted of it
	body, err := io.ReadAll(io.LimitReader(resp.Body, sampleBody))
	return resp.StatusCode, body, err
}

// noAnswer is a short word that stays the same from sample to sample: local ports in an error's text would not.
func noAnswer(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "timeout"
	case strings.Contains(err.Error(), "connection refused"):
		return "connection refused"
	case strings.Contains(err.Error(), "connection reset"), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection broken"
	}
	return "error"
}

// Drain implements Workload: nothing is stored.
func (w *HealthSampler) Drain(context.Context, *Env) error { return nil }

// Close implements Workload.
func (w *HealthSampler) Close() {}
