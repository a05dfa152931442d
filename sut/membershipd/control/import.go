package control

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Settings of an import of any size.
const (
	// importCall is for one request of up to MaxImport users. A node answers within two seconds with what it has done until then.
	importCall = 5 * time.Second
	// importPatience is how long an import goes on without a single user more: elections are over by then.
	importPatience = 30 * time.Second
	importRetry    = 200 * time.Millisecond // between two attempts, with as much again at random
)

// ImportOptions of [Client.ImportAll]. The zero value ends at the first user who is refused.
type ImportOptions struct {
	// Progress is called after every request with the users, from the first on, that are decided; nil for nobody.
	Progress func(decided int)
	// Refused is told of each user who is refused, by index; the others are imported all the same. Without it the first refusal is the error.
	Refused func(i int, why *Error)
}

// Import is what became of many users.
type Import struct {
	Decided int `json:"decided"` // users, from the first on, that are there or were refused
	Added   int `json:"added"`   // those that an answer said to be new
	Refused int `json:"refused"`
	Change
}

// ImportAll adds any number of users, in order, with the meaning of as many [Client.AddUser]: each is on disk on a majority before the next request
// begins. It repeats what is safe to repeat: elections and lost answers do not end it, unless they last for half a minute. So whoever was interrupted
// begins again with the same users, and those that are there already cost a look. The error is an *Error: of the user with the index Decided if that
// one was refused (see ImportOptions.Refused), otherwise of the cluster; how far it came is in the result.
func (c *Client) ImportAll(ctx context.Context, users []UserAddRequest, o ImportOptions) (Import, error) {
	var all Import
	moved := time.Now()
	for all.Decided < len(users) {
		resp, err := c.importPart(ctx, users[all.Decided:min(all.Decided+MaxImport, len(users))])
		all.take(resp)
		if resp.Done > 0 {
			moved = time.Now()
		}
		if refusal(err) && o.Refused != nil {
			o.Refused(all.Decided, err)
			all.Decided, all.Refused, err, moved = all.Decided+1, all.Refused+1, nil, time.Now()
		}
		if o.Progress != nil {
			o.Progress(all.Decided)
		}
		if err == nil {
			continue
		}
		if refusal(err) || time.Since(moved) > importPatience || !pause(ctx, importRetry+rand.N(importRetry)) {
			return all, err
		}
	}
	return all, nil
}

// importPart makes one request. Its error is also what ended the request half-way.
func (c *Client) importPart(ctx context.Context, users []UserAddRequest) (UserImportResponse, *Error) {
	ctx, cancel := context.WithTimeout(ctx, importCall)
	defer cancel()
	resp, err := c.ImportUsers(ctx, users)
	var e *Error
	if errors.As(err, &e) {
		return UserImportResponse{}, e
	}
	return resp, resp.Error
}

func (all *Import) take(resp UserImportResponse) {
	all.Decided += resp.Done
	all.Added += resp.Added
	if resp.Revision >= all.Revision && resp.Done > 0 {
		changed := all.Changed || resp.Changed
		all.Change = resp.Change
		all.Changed = changed
	}
}

// refusal tells what is about the request from what is about the cluster at the moment.
func refusal(e *Error) bool { return e != nil && e.Code != Unavailable && e.Code != Unknown }

// pause returns false when the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
