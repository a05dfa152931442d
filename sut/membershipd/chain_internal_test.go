package membershipd

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats.go"
)

// TestChainWithAGap: what somebody else writes takes the place of one message of a chain, and those behind it are stored all the same.
func TestChainWithAGap(t *testing.T) {
	js := oneServer(t, false)
	chain := func(from uint64) (msgs []*nats.Msg) {
		for i := range uint64(4) {
			msgs = append(msgs, newMsg(keySubject(BucketSettings, fmt.Sprintf("k%d", i)), nil, []byte("x"), &expectation{seq: from + i, whole: true}))
		}
		return msgs
	}
	if done, stored, last, err := js.publishChain(t.Context(), chain(0)); done != 4 || stored != 4 || last != 4 || err != nil {
		t.Errorf("alone: %d done, %d stored, up to %d, %v", done, stored, last, err)
	}
	if _, err := js.publish(t.Context(), keySubject(BucketSettings, "another"), nil, []byte("y"), nil); err != nil {
		t.Fatal(err)
	}
	if done, stored, last, err := js.publishChain(t.Context(), chain(4)); done != 0 || stored != 3 || last != 8 || !hasCode(err, codeWrongSequence) {
		t.Errorf("behind another's write: %d done, %d stored, up to %d, %v", done, stored, last, err)
	}
	msgs := chain(8)
	for _, m := range msgs {
		m.Header.Set(headerExpectSeq, "0") // all of them are there
	}
	if done, stored, last, err := js.publishChain(t.Context(), msgs); done != 0 || stored != 0 || last != 0 || !hasCode(err, codeWrongSequence) {
		t.Errorf("of names that are taken: %d done, %d stored, up to %d, %v", done, stored, last, err)
	}
}
