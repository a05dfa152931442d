package workload

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

func api(code jetstream.ErrorCode, text string) error {
	return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 400, ErrorCode: code, Description: text})
}

func TestClassify(t *testing.T) {
	cas := history.Op{Kind: history.Update, Prev: 7}
	create := history.Op{Kind: history.Create}
	pub := history.Op{Kind: history.Publish}
	tests := []struct {
		name string
		op   history.Op
		err  error
		want history.Outcome
		word string
	}{
		{"an answer", pub, nil, history.OK, ""},
		{"nobody listens", pub, nats.ErrNoResponders, history.Failed, "no-responders"},
		{"no stream listens", pub, jetstream.ErrNoStreamResponse, history.Failed, "no-responders"},
		{"not connected", pub, nats.ErrReconnectBufExceeded, history.Failed, "not-connected"},
		{"not connected, wrapped", pub, fmt.Errorf("publish: %w", nats.ErrConnectionReconnecting), history.Failed, "not-connected"},
		{"never connected so far", pub, nats.ErrHeadersNotSupported, history.Failed, "not-connected"},
		{"too large for the connection", pub, nats.ErrMaxPayload, history.Failed, "too-large"},
		{"too large for the stream", pub, api(10054, "message size exceeds maximum allowed"), history.Failed, "too-large"},
		{"another stream", pub, api(10060, "expected stream does not match"), history.Failed, "wrong-stream"},

		{"update refused by a later revision", cas, api(10071, "wrong last sequence: 9"), history.Failed, "conflict"},
		{"create refused by a revision", create, api(10071, "wrong last sequence: 1"), history.Failed, "conflict"},
		{"update refused by a server that lags behind", cas, api(10071, "wrong last sequence: 3"), history.Unknown, "nats:10071"},
		{"update refused by a server that knows no more", cas, api(10071, "wrong last sequence: 7"), history.Unknown, "nats:10071"},
		{"update refused without a sequence", cas, api(10071, "wrong last sequence"), history.Unknown, "nats:10071"},
		{"update refused with a sequence that is none", cas, api(10071, "wrong last sequence: -1"), history.Unknown, "nats:10071"},
		{"append refused by a later sequence, perhaps never committed", history.Op{Kind: history.Append, Prev: 7}, api(10071, "wrong last sequence: 9"), history.Unknown, "nats:10071"},
		{"append refused by another message id", history.Op{Kind: history.Append, After: "a"}, api(10070, "wrong last msg ID: b"), history.Unknown, "nats:10070"},
		{"another write of the key is in flight", cas, api(10164, "wrong last sequence"), history.Unknown, "nats:10164"},
		{"the same id is in flight", pub, api(10158, "duplicate message id is in process"), history.Unknown, "nats:10158"},
		{"committed, and not stored by the leader", pub, api(10077, "store is closed"), history.Unknown, "nats:10077"},
		{"committed at another sequence", pub, api(10063, "expected stream sequence does not match"), history.Unknown, "nats:10063"},
		{"overrun", pub, api(10167, "too many requests"), history.Unknown, "nats:10167"},
		{"out of resources", pub, api(10023, "insufficient resources"), history.Unknown, "nats:10023"},
		{"no meta leader", pub, api(10008, "JetStream system temporarily unavailable"), history.Unknown, "nats:10008"},
		{"a code that nobody has heard of", pub, api(19999, "?"), history.Unknown, "nats:19999"},

		{"timeout", pub, errTimeout, history.Unknown, "timeout"},
		{"nats.go's timeout", pub, nats.ErrTimeout, history.Unknown, "timeout"},
		{"deadline", pub, fmt.Errorf("publish: %w", context.DeadlineExceeded), history.Unknown, "timeout"},
		{"disconnected", pub, errDisconnected, history.Unknown, "disconnected"},
		{"nats.go's disconnected", pub, nats.ErrDisconnected, history.Unknown, "disconnected"},
		{"closed, before or after writing", pub, nats.ErrConnectionClosed, history.Unknown, "disconnected"},
		{"cancelled", pub, context.Canceled, history.Unknown, "disconnected"},
		{"ack that is none", pub, jetstream.ErrInvalidJSAck, history.Unknown, "bad-answer"},
		{"ack of another stream", pub, fmt.Errorf("%w: ack of %q", errBadAnswer, "X"), history.Unknown, "bad-answer"},
		{"write error", pub, &net.OpError{Op: "write", Err: errors.New("broken pipe")}, history.Unknown, "write: broken pipe"},

		{"control: unavailable", pub, &controlError{"unavailable", "no quorum"}, history.Failed, "unavailable"},
		{"control: conflict", cas, &controlError{"conflict", "revision is 9"}, history.Failed, "conflict"},
		{"control: invalid", pub, &controlError{"invalid", ""}, history.Failed, "invalid"},
		{"control: denied", pub, &controlError{"denied", ""}, history.Failed, "denied"},
		{"control: not found", pub, &controlError{"not_found", ""}, history.Failed, "not_found"},
		{"control: unknown", pub, &controlError{"unknown", "timeout"}, history.Unknown, "unknown"},
		{"control: undocumented code", pub, &controlError{"500", "?"}, history.Unknown, "500"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, word := classify(&tt.op, tt.err)
			if got != tt.want || word != tt.word {
				t.Errorf("classify(%v) = %v %q, want %v %q", tt.err, got, word, tt.want, tt.word)
			}
		})
	}
}

// An error that no rule names must claim nothing, and a long one must not swell the record.
func TestClassifyDefault(t *testing.T) {
	out, word := classify(&history.Op{}, errors.New(strings.Repeat("x", 1000)))
	if out != history.Unknown || len(word) != maxErrWord {
		t.Errorf("got %v with %d bytes", out, len(word))
	}
}

func TestRulesAreExplained(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules {
		if r.name == "" || r.why == "" || r.match == nil || seen[r.name] {
			t.Errorf("rule %q: needs a name of its own, a match and a reason", r.name)
		}
		if r.outcome == history.OK {
			t.Errorf("rule %q makes an error OK", r.name)
		}
		seen[r.name] = true
	}
}
