package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// userRetry is the pause between two requests about one user.
const userRetry = 200 * time.Millisecond

// UserState is what the control API says of one user.
type UserState struct {
	Key      string `json:"nkey"`
	Role     string `json:"role"`
	Disabled bool   `json:"disabled"`
	Revision uint64 `json:"revision"`
}

// ShowUser asks for a user until there is an answer, or ctx ends.
func ShowUser(ctx context.Context, e *Env, name string) (UserState, error) {
	var got UserState
	err := e.insist(ctx, usersShow, map[string]string{"name": name}, &got)
	return got, err
}

// DisableUser takes a user's access away. It asks until that is confirmed, or ctx ends: the request is idempotent.
func DisableUser(ctx context.Context, e *Env, name string) error {
	var got change
	return e.insist(ctx, usersDisable, map[string]string{"name": name}, &got)
}

// insist calls the control API until it answers.
func (e *Env) insist(ctx context.Context, subject string, req, resp any) error {
	c, err := e.connect(ctx, e.label("admin"), 0)
	if err != nil {
		return err
	}
	defer c.close()
	c.awaitFirst(ctx)
	t := time.NewTicker(userRetry)
	defer t.Stop()
	for {
		err := c.callOnce(ctx, subject, req, resp)
		var ce *controlError
		if err == nil || errors.As(err, &ce) && (ce.Code == "invalid" || ce.Code == "denied" || ce.Code == "not_found" || ce.Code == "conflict") {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", subject, errors.Join(err, ctx.Err()))
		case <-t.C:
		}
	}
}

func (c *client) callOnce(ctx context.Context, subject string, req, resp any) error {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	return c.call(ctx, subject, req, resp)
}

// SeedFile is the file of first administrators for "membershipd serve --seed-file": names with their public keys.
func SeedFile(admins map[string]string) ([]byte, error) {
	type user struct {
		Name string `json:"name"`
		Key  string `json:"nkey"`
		Role string `json:"role"`
	}
	f := struct {
		Schema int    `json:"schema"`
		Users  []user `json:"users"`
	}{Schema: 1}
	for _, name := range slices.Sorted(maps.Keys(admins)) {
		f.Users = append(f.Users, user{name, admins[name], "admin"})
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the seed file: %w", err)
	}
	return append(b, '\n'), nil
}
