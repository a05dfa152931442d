package workload

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/unibus/unibus/reports/history"
)

// Error codes of JetStream that the table below names (server/errors.json).
const (
	codeNotFound       jetstream.ErrorCode = 10037 // no message found
	codeTooLarge       jetstream.ErrorCode = 10054 // message size exceeds maximum allowed
	codeStreamMismatch jetstream.ErrorCode = 10060 // expected stream does not match
	codeWrongLast      jetstream.ErrorCode = 10071 // wrong last sequence: N
)

// wrongLast is how the server spells codeWrongLast; what follows is the sequence that it has.
const wrongLast = "wrong last sequence: "

// maxErrWord bounds an error's text in the record.
const maxErrWord = 160

// Why an operation ended without an answer.
var (
	errTimeout      = errors.New("no answer within the operation's timeout")
	errDisconnected = errors.New("the connection broke while the operation was in flight")
	errBadAnswer    = errors.New("the answer is not a valid one")
)

// rule maps errors to what may be claimed about the operation.
type rule struct {
	name    string
	match   func(op *history.Op, err error) bool
	outcome history.Outcome
	word    string // Op.Err; "" takes it from the error
	why     string // where the claim comes from
}

// rules is the table of outcomes; the first rule that matches decides, and an error that none matches is Unknown.
//
// Failed is a strong claim: this attempt did not take effect and never will. Around a change of leader two servers may both be
// subscribed to a stream's subjects: the new leader, and one that has not yet heard that it was deposed. Both get the message,
// and the client takes the first answer. So a refusal by a server proves only something if every leader would have to refuse.
// References are to nats-server v2.15.2 and nats.go v1.55.0.
var rules = []rule{
	{
		name: "no responders", outcome: history.Failed, word: "no-responders",
		match: func(_ *history.Op, err error) bool {
			return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrNoStreamResponse)
		},
		why: "the client's server found no interest at all, local or routed, and gave the message to nobody (server/client.go, processInboundClientMsg)",
	},
	{
		name: "not connected", outcome: history.Failed, word: "not-connected",
		match: func(_ *history.Op, err error) bool {
			return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionReconnecting) ||
				errors.Is(err, nats.ErrConnectionDraining) || errors.Is(err, nats.ErrHeadersNotSupported)
		},
		why: "nats.go returns these before it writes the first byte, and with ReconnectBufSize(-1) it keeps nothing for later; a client that was never " +
			"connected knows of no server that takes headers (nats.go, publish)",
	},
	{
		name: "too large", outcome: history.Failed, word: "too-large",
		match: func(_ *history.Op, err error) bool {
			return errors.Is(err, nats.ErrMaxPayload) || apiCode(err) == codeTooLarge
		},
		why: "nats.go refuses before writing; a stream's leader refuses by the stream's configuration, which is the same on every replica (jetstream_cluster.go, processClusteredInboundMsg)",
	},
	{
		name: "wrong stream", outcome: history.Failed, word: "wrong-stream",
		match: func(_ *history.Op, err error) bool { return apiCode(err) == codeStreamMismatch },
		why:   "compared with the stream's name before the proposal, the same on every replica (jetstream_batching.go, checkMsgHeadersPreClusteredProposal)",
	},
	{
		name: "conflict with a later revision", outcome: history.Failed, word: "conflict",
		match: conflictIsCertain,
		why: "the refusing server has *stored*, so a majority has committed, a revision of that key above the expected one; revisions only grow, so every leader must refuse. " +
			"(A deposed leader that lags behind would name a lower one: that is the next rule.) The end of a stream is another matter: the server names what it has proposed, " +
			"committed or not (jetstream_batching.go, checkMsgHeadersPreClusteredProposal)",
	},
	{
		name: "conflict otherwise", outcome: history.Unknown,
		match: func(_ *history.Op, err error) bool { return apiCode(err) == codeWrongLast },
		why:   "the refusing server may know nothing newer, in a majority's store, than what the client expected: it may be a deposed leader that lags behind while the new one accepts",
	},
	{
		name: "control: certain", outcome: history.Failed,
		match: func(_ *history.Op, err error) bool {
			var ce *controlError
			return errors.As(err, &ce) && ce.certain()
		},
		why: "the control API's contract: invalid, denied, not_found, conflict and unavailable mean certainly not done",
	},
	{
		name: "control: uncertain", outcome: history.Unknown,
		match: func(_ *history.Op, err error) bool { var ce *controlError; return errors.As(err, &ce) },
		why:   "the control API says unknown where the change may have been made; a code that it does not document claims nothing",
	},
	{
		// 10164: another write of the key is in flight at this server, which may be deposed and never commit it.
		// 10158: an earlier publish of this message id is in flight. 10077: the store refused, or was being closed, when a *committed* message was
		// applied: other replicas have it. 10063: the same at apply time. 10167, 10023, 10008: this server did not take it, another leader might.
		name: "JetStream error", outcome: history.Unknown,
		match: func(_ *history.Op, err error) bool { return apiCode(err) != 0 },
		why:   "the answer speaks for one server (10164, 10158, 10167, 10023, 10008), or comes after the message was committed (10077, 10063: stream.go, processJetStreamMsgWithBatch)",
	},
	{
		name: "timeout", outcome: history.Unknown, word: "timeout",
		match: func(_ *history.Op, err error) bool {
			return errors.Is(err, errTimeout) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, context.DeadlineExceeded)
		},
		why: "it was written, and nobody said what became of it",
	},
	{
		name: "disconnected", outcome: history.Unknown, word: "disconnected",
		match: func(_ *history.Op, err error) bool {
			return errors.Is(err, errDisconnected) || errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrConnectionClosed) ||
				errors.Is(err, context.Canceled)
		},
		why: "the connection broke with the operation in flight; ErrConnectionClosed is returned before and after writing (nats.go, publish and request)",
	},
	{
		name: "bad answer", outcome: history.Unknown, word: "bad-answer",
		match: func(_ *history.Op, err error) bool {
			return errors.Is(err, errBadAnswer) || errors.Is(err, jetstream.ErrInvalidJSAck)
		},
		why: "an answer that cannot be understood proves nothing",
	},
}

// classify says what may be claimed about op after err.
func classify(op *history.Op, err error) (history.Outcome, string) {
	if err == nil {
		return history.OK, ""
	}
	for _, r := range rules {
		if r.match(op, err) {
			return r.outcome, r.spell(err)
		}
	}
	return history.Unknown, cut(err.Error(), maxErrWord)
}

func (r rule) spell(err error) string {
	if r.word != "" {
		return r.word
	}
	if code := apiCode(err); code != 0 {
		return fmt.Sprintf("nats:%d", code)
	}
	var ce *controlError
	if errors.As(err, &ce) {
		return ce.Code
	}
	return cut(err.Error(), maxErrWord)
}

// apiCode is the JetStream error code in err, or 0.
func apiCode(err error) jetstream.ErrorCode {
	var je jetstream.JetStreamError
	if errors.As(err, &je) && je.APIError() != nil {
		return je.APIError().ErrorCode
	}
	return 0
}

// conflictIsCertain tells whether a refused compare-and-set was refused by a server that knows a revision above the expected one.
func conflictIsCertain(op *history.Op, err error) bool {
	var ae *jetstream.APIError
	if op.Kind == history.Append || !errors.As(err, &ae) || ae.ErrorCode != codeWrongLast {
		return false
	}
	n, ok := strings.CutPrefix(ae.Description, wrongLast)
	if !ok {
		return false
	}
	has, perr := strconv.ParseUint(n, 10, 64)
	return perr == nil && has > op.Prev
}

func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
