package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/unibus/unibus/reports/history"
)

// The control API of membershipd, as its clients know it.
const (
	controlTarget = "control/settings"
	controlPut    = "unibus.v1.settings.put"
	controlGet    = "unibus.v1.settings.get"
	controlList   = "unibus.v1.settings.list"
	controlPrefix = "load-" // of the settings that this workload owns
)

// controlError is an error answer of the control API.
type controlError struct{ Code, Text string }

func (e *controlError) Error() string { return e.Code + ": " + e.Text }

// certain tells whether the contract says that nothing was done.
func (e *controlError) certain() bool {
	return slices.Contains([]string{"invalid", "denied", "not_found", "conflict", "unavailable"}, e.Code)
}

// Control works on membershipd's cluster-wide settings through its control API, which any node answers. Each client is one process in the
// sense of linearizability.
type Control struct {
	Label   string        // of the clients; "" means "ctl"
	Clients int           // 0 means 3
	Keys    int           // 0 means 4
	Rate    float64       // operations a second and client; 0 means 10
	Mix     Mix           // the zero value means DefaultMix; Direct counts as Get
	Timeout time.Duration // of one operation; 0 means 3 s

	team
}

var _ Workload = (*Control)(nil)

func (w *Control) defaults() {
	w.Label = or(w.Label, "ctl")
	w.Clients = or(w.Clients, 3)
	w.Keys = or(w.Keys, 4)
	w.Rate = or(w.Rate, 10)
	w.Mix = or(w.Mix, DefaultMix)
	w.Mix.Get, w.Mix.Direct = w.Mix.Get+w.Mix.Direct, 0
	w.Timeout = or(w.Timeout, 3*time.Second)
}

// Name implements Workload.
func (w *Control) Name() string { return "control settings" }

// Setup implements Workload. It creates nothing: the buckets are the daemon's.
func (w *Control) Setup(ctx context.Context, e *Env) error {
	w.defaults()
	return w.join(ctx, e, e.label(w.Label), w.Clients)
}

// Run implements Workload.
func (w *Control) Run(ctx context.Context, e *Env) error {
	return w.each(ctx, e, func(ctx context.Context, c *client, i int) int {
		r := &register{
			target: controlTarget, keys: w.Keys, mix: w.Mix, timeout: w.Timeout, prefix: controlPrefix, do: c.controlOp,
		}
		return r.run(ctx, c, newPacer(w.Rate, i, len(w.clients)))
	})
}

type setting struct {
	Name     string  `json:"name"`
	Value    string  `json:"value,omitempty"`
	Revision uint64  `json:"revision,omitempty"`
	Expect   *uint64 `json:"expect,omitempty"`
}

// call sends one request to the control API.
func (c *client) call(ctx context.Context, subject string, req, resp any) error {
	b, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	m, err := c.nc.RequestWithContext(ctx, subject, b)
	if err != nil {
		return err
	}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		return &controlError{Code: code, Text: m.Header.Get(micro.ErrorHeader)}
	}
	if err := json.Unmarshal(m.Data, resp); err != nil {
		return fmt.Errorf("%w: %w", errBadAnswer, err)
	}
	return nil
}

// controlOp carries out one operation on a setting.
func (c *client) controlOp(ctx context.Context, op *history.Op) error {
	var got setting
	if op.Kind == history.Get {
		err := c.call(ctx, controlGet, setting{Name: op.Key}, &got)
		var ce *controlError
		if errors.As(err, &ce) && ce.Code == "not_found" {
			return nil // an answer: the setting does not exist
		}
		if err == nil && (got.Name != op.Key || got.Revision == 0) {
			err = fmt.Errorf("%w: setting %q at %d", errBadAnswer, got.Name, got.Revision)
		}
		if err == nil {
			op.Value, op.Seq = got.Value, got.Revision
		}
		return err
	}
	req := setting{Name: op.Key, Value: op.Value}
	if op.Kind != history.Put {
		req.Expect = &op.Prev
	}
	if err := c.call(ctx, controlPut, req, &got); err != nil {
		return err
	}
	if got.Revision == 0 {
		return fmt.Errorf("%w: no revision", errBadAnswer)
	}
	op.Seq = got.Revision
	return nil
}

// Drain implements Workload: the settings that it owns, by a list that two calls agree on.
func (w *Control) Drain(ctx context.Context, e *Env) error {
	c, err := w.any()
	if err != nil {
		return err
	}
	var got []setting
	err = until(ctx, drainTimeout, drainRetry, func(ctx context.Context) error {
		var err error
		got, err = c.listTwice(ctx)
		return err
	})
	d := history.Drain{Target: controlTarget, Complete: err == nil, Items: len(got)}
	for _, s := range got {
		e.Recorder.Item(history.Item{Target: controlTarget, Seq: s.Revision, Key: s.Name, Value: s.Value})
		d.Last = max(d.Last, s.Revision)
		if d.First == 0 || s.Revision < d.First {
			d.First = s.Revision
		}
	}
	if err != nil {
		d.Err = cut(err.Error(), maxErrWord)
		err = fmt.Errorf("list settings: %w", err)
	}
	e.Recorder.Drain(d)
	return err
}

func (c *client) listTwice(ctx context.Context) ([]setting, error) {
	a, err := c.listSettings(ctx)
	if err != nil {
		return nil, err
	}
	b, err := c.listSettings(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(a, b) {
		return nil, fmt.Errorf("two lists differ: %d and %d settings", len(a), len(b))
	}
	return a, nil
}

// listSettings is the workload's own settings, in order of revision.
func (c *client) listSettings(ctx context.Context) ([]setting, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	var resp struct {
		Settings []setting `json:"settings"`
	}
	if err := c.call(ctx, controlList, struct{}{}, &resp); err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(resp.Settings, func(s setting) bool { return !strings.HasPrefix(s.Name, controlPrefix) })
	slices.SortFunc(own, func(a, b setting) int { return int(int64(a.Revision) - int64(b.Revision)) })
	return own, nil
}

// Close implements Workload.
func (w *Control) Close() { w.close() }
