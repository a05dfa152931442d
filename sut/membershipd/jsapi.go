package membershipd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Error codes of JetStream's API that decide something here.
const (
	codeNoMessage      = 10037
	codeStreamNotFound = 10059
	codeWrongSequence  = 10071 // the last sequence is another one
	codeStoreFailed    = 10077 // the message was not stored, for the reason in the description
	codeInProcess      = 10164 // a write to the same subject is under way: checked before anything is stored
)

// Headers of JetStream.
const (
	headerExpectSeq     = "Nats-Expected-Last-Subject-Sequence"
	headerExpectSubject = "Nats-Expected-Last-Subject-Sequence-Subject"
	headerExpectLast    = "Nats-Expected-Last-Sequence"
)

var errNotConnected = errors.New("the control plane's own connection is down")

// jsAPI speaks JetStream's protocol without the client library's conveniences: one call is one message, and there
// are no retries that would blur whether something was done.
type jsAPI struct {
	nc *nats.Conn
}

// apiError is JetStream's refusal of a request.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

// Error implements error.
func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.ErrCode) }

func hasCode(err error, codes ...int) bool {
	var e *apiError
	if !errors.As(err, &e) {
		return false
	}
	for _, c := range codes {
		if e.ErrCode == c {
			return true
		}
	}
	return false
}

// certainlyNotSent is true for errors that are known before anybody could have received the request.
func certainlyNotSent(err error) bool {
	return errors.Is(err, nats.ErrNoResponders) || errors.Is(err, errNotConnected)
}

// call sends a request to JetStream and decodes the answer into resp.
func (a jsAPI) call(ctx context.Context, subject string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	return a.exchange(ctx, &nats.Msg{Subject: subject, Data: body}, resp)
}

func (a jsAPI) exchange(ctx context.Context, msg *nats.Msg, resp any) error {
	if !a.nc.IsConnected() {
		return errNotConnected
	}
	answer, err := a.nc.RequestMsgWithContext(ctx, msg)
	if err != nil {
		return err
	}
	return a.decode(answer, resp)
}

// decode reads an answer, which may be a refusal.
func (a jsAPI) decode(answer *nats.Msg, resp any) error {
	if answer.Header.Get("Status") == "503" && len(answer.Data) == 0 {
		return nats.ErrNoResponders
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(answer.Data, &failed); err != nil {
		return fmt.Errorf("decode JetStream's answer: %w", err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if err := json.Unmarshal(answer.Data, resp); err != nil {
		return fmt.Errorf("decode JetStream's answer: %w", err)
	}
	return nil
}

// streamInfo is answered by the stream's leader.
func (a jsAPI) streamInfo(ctx context.Context, stream string) (jetstream.StreamInfo, error) {
	var info jetstream.StreamInfo
	err := a.call(ctx, "$JS.API.STREAM.INFO."+stream, struct{}{}, &info)
	return info, err
}

// subjects lists the subjects with messages that match filter, as the stream's leader knows them.
func (a jsAPI) subjects(ctx context.Context, stream, filter string) ([]string, error) {
	var all []string
	for {
		var info struct {
			jetstream.StreamInfo
			Total int `json:"total"`
		}
		req := map[string]any{"subjects_filter": filter, "offset": len(all)}
		if err := a.call(ctx, "$JS.API.STREAM.INFO."+stream, req, &info); err != nil {
			return nil, err
		}
		for s := range info.State.Subjects {
			all = append(all, s)
		}
		if len(info.State.Subjects) == 0 || len(all) >= info.Total {
			return all, nil
		}
	}
}

func (a jsAPI) createStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	var info jetstream.StreamInfo
	return a.call(ctx, "$JS.API.STREAM.CREATE."+cfg.Name, cfg, &info)
}

func (a jsAPI) updateStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	var info jetstream.StreamInfo
	return a.call(ctx, "$JS.API.STREAM.UPDATE."+cfg.Name, cfg, &info)
}

// stepDown asks a stream's leader to hand over.
func (a jsAPI) stepDown(ctx context.Context, stream string) error {
	var resp struct{}
	return a.call(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, struct{}{}, &resp)
}

// storedMsg is a message as a stream's leader returns it.
type storedMsg struct {
	subject string
	seq     uint64
	when    time.Time
	header  nats.Header
	data    []byte
}

// last reads the last message of a subject from the stream's leader; no message is not an error, and has sequence 0.
func (a jsAPI) last(ctx context.Context, stream, subject string) (storedMsg, error) {
	return a.msgGet(ctx, stream, map[string]any{"last_by_subj": subject})
}

// next reads the first message with at least that sequence whose subject matches filter.
func (a jsAPI) next(ctx context.Context, stream string, seq uint64, filter string) (storedMsg, error) {
	return a.msgGet(ctx, stream, map[string]any{"seq": seq, "next_by_subj": filter})
}

func (a jsAPI) msgGet(ctx context.Context, stream string, req any) (storedMsg, error) {
	var resp struct {
		Message struct {
			Subject string    `json:"subject"`
			Seq     uint64    `json:"seq"`
			Header  []byte    `json:"hdrs"`
			Data    []byte    `json:"data"`
			Time    time.Time `json:"time"`
		} `json:"message"`
	}
	err := a.call(ctx, "$JS.API.STREAM.MSG.GET."+stream, req, &resp)
	if hasCode(err, codeNoMessage) {
		return storedMsg{}, nil
	}
	if err != nil {
		return storedMsg{}, err
	}
	m := storedMsg{subject: resp.Message.Subject, seq: resp.Message.Seq, when: resp.Message.Time, data: resp.Message.Data}
	if len(resp.Message.Header) > 0 {
		if m.header, err = nats.DecodeHeadersMsg(resp.Message.Header); err != nil {
			return storedMsg{}, fmt.Errorf("decode a stored message's headers: %w", err)
		}
	}
	return m, nil
}

// expectation makes a write conditional on the last sequence of a subject, by default the one that is written to.
type expectation struct {
	seq     uint64
	subject string
	whole   bool // the last sequence of the whole stream
}

func (e *expectation) set(h nats.Header) {
	switch {
	case e == nil:
	case e.whole:
		h.Set(headerExpectLast, strconv.FormatUint(e.seq, 10))
	default:
		h.Set(headerExpectSeq, strconv.FormatUint(e.seq, 10))
		if e.subject != "" {
			h.Set(headerExpectSubject, e.subject)
		}
	}
}

// publish writes one message to a stream and returns its sequence once a majority has it.
func (a jsAPI) publish(ctx context.Context, subject string, header nats.Header, data []byte, expect *expectation) (uint64, error) {
	msg := newMsg(subject, header, data, expect)
	var ack pubAck
	if err := a.exchange(ctx, msg, &ack); err != nil {
		return 0, err
	}
	return ack.sequence()
}

func newMsg(subject string, header nats.Header, data []byte, expect *expectation) *nats.Msg {
	msg := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: data}
	for k, v := range header {
		msg.Header[k] = v
	}
	expect.set(msg.Header)
	return msg
}

type pubAck struct {
	Stream string `json:"stream"`
	Seq    uint64 `json:"seq"`
}

func (a pubAck) sequence() (uint64, error) {
	if a.Stream == "" || a.Seq == 0 {
		return 0, errors.New("JetStream's answer is not an acknowledgement")
	}
	return a.Seq, nil
}

// publishChain writes messages that each expect the stream to end with the one before. It returns how many of them, from the first on and without a gap, a
// majority has, how many of all, and the last sequence of those; if that is not all, the error is the first refusal, or why the wait ended.
//
// A write of somebody else that comes between takes the place of one of them, which is refused: the next one finds the stream as long as it expects.
func (a jsAPI) publishChain(ctx context.Context, msgs []*nats.Msg) (done, stored int, last uint64, err error) {
	if !a.nc.IsConnected() {
		return 0, 0, 0, errNotConnected
	}
	inbox := a.nc.NewInbox()
	sub, err := a.nc.SubscribeSync(inbox + ".*")
	if err != nil {
		return 0, 0, 0, err
	}
	defer sub.Unsubscribe() //nolint:errcheck // nothing more is expected
	for i, m := range msgs {
		m.Reply = inbox + "." + strconv.Itoa(i)
		if err := a.nc.PublishMsg(m); err != nil {
			return 0, 0, 0, err
		}
	}
	acked := make([]bool, len(msgs))
	var refused error
	for range msgs {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return done, stored, last, errors.Join(refused, err)
		}
		var ack pubAck
		seq, err := uint64(0), a.decode(m, &ack)
		if err == nil {
			seq, err = ack.sequence()
		}
		i, _ := strconv.Atoi(strings.TrimPrefix(m.Subject, inbox+"."))
		if err != nil {
			if refused == nil {
				refused = err
			}
			continue
		}
		if i < 0 || i >= len(msgs) {
			continue
		}
		acked[i], stored, last = true, stored+1, max(last, seq)
		for done < len(msgs) && acked[done] {
			done++
		}
	}
	if done < len(msgs) && refused == nil {
		refused = errors.New("not every write was answered")
	}
	return done, stored, last, refused
}
