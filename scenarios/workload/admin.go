package workload

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Settings of Scale.
const (
	controlScale = "unibus.v1.cluster.scale"
	scaleRetry   = 200 * time.Millisecond
)

// Scale asks membershipd, through its control API, to keep its buckets at that many replicas from now on. It asks again until the change is
// confirmed or ctx ends: the request is idempotent. It returns before the buckets are scaled.
func Scale(ctx context.Context, e *Env, replicas int) error {
	c, err := e.connect(ctx, e.label("scale"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	c.awaitFirst(ctx)
	t := time.NewTicker(scaleRetry)
	defer t.Stop()
	for {
		var got struct {
			Replicas int `json:"replicas"`
		}
		err := c.scaleOnce(ctx, replicas, &got)
		var ce *controlError
		switch {
		case err == nil && got.Replicas == replicas:
			return nil
		case err == nil:
			return fmt.Errorf("scale: %w: %d replicas confirmed", errBadAnswer, got.Replicas)
		case errors.As(err, &ce) && (ce.Code == "invalid" || ce.Code == "denied"):
			return fmt.Errorf("scale: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("scale: %w", errors.Join(err, ctx.Err()))
		case <-t.C:
		}
	}
}

func (c *client) scaleOnce(ctx context.Context, replicas int, got any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return c.call(ctx, controlScale, map[string]int{"replicas": replicas}, got)
}
