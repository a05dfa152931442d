package membershipd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/unibus/unibus/sut/membershipd/access"
)

const (
	auditInterval = 2 * time.Second // between two looks when nothing is heard
	auditTimeout  = 2 * time.Second
	// auditPatience is for how long the audit stream's leader may refuse every record of a bucket before another one is asked for. A leader remembers
	// which conditional writes are under way, and refuses others to the same subject; one of which it never hears the end would be refused for ever.
	auditPatience = 10 * time.Second
)

// AuditRecord is one entry of the audit stream.
type AuditRecord struct {
	Who      string    `json:"who"`            // public nkey of the caller
	User     string    `json:"user,omitempty"` // that proved the key; "" for a static key and a node's own
	What     string    `json:"what"`           // "settings.put", "users.disable"
	When     time.Time `json:"when"`           // when the change was stored
	Node     string    `json:"node"`           // that answered the request
	Bucket   string    `json:"bucket"`
	Name     string    `json:"name"`
	Revision uint64    `json:"revision"`
}

// auditor copies who, what and when of every change from the bucket's own stream to the audit stream. The facts are stored with the change itself, so
// a node that dies right after a change leaves no hole: the next one goes on behind the last record. A compare-and-set makes each entry once.
type auditor struct {
	js      jsAPI
	log     *slog.Logger
	leading func() bool // only the meta leader's node works, to save work; two would not do harm
	kicks   chan struct{}
	stuck   map[string]time.Time // by bucket, since when its records are refused
}

func (a *auditor) kick() {
	select {
	case a.kicks <- struct{}{}:
	default:
	}
}

func (a *auditor) run(ctx context.Context) {
	t := time.NewTicker(auditInterval)
	defer t.Stop()
	for {
		if a.leading() {
			for _, bucket := range auditedBuckets {
				if err := a.catchUp(ctx, bucket); ctx.Err() == nil {
					a.unstick(ctx, bucket, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-a.kicks:
		case <-t.C:
		}
	}
}

// unstick sees to it that a bucket whose records are refused again and again gets on: the audit stream gets another leader, which starts without the
// memory of the present one. Nothing is lost by that, and a record is made once all the same.
func (a *auditor) unstick(ctx context.Context, bucket string, err error) {
	if err == nil || !hasCode(err, codeWrongSequence, codeInProcess) {
		delete(a.stuck, bucket)
		if err != nil {
			a.log.Debug("audit: try again", "bucket", bucket, "error", err)
		}
		return
	}
	since, known := a.stuck[bucket]
	if !known {
		if a.stuck == nil {
			a.stuck = map[string]time.Time{}
		}
		a.stuck[bucket] = time.Now()
		return
	}
	if time.Since(since) < auditPatience {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	moved := a.js.stepDown(ctx, AuditStream)
	a.log.Warn("audit: records are refused again and again: the audit stream's leader was asked to step down", "bucket", bucket, "refused", err, "error", moved)
	delete(a.stuck, bucket) // the next one has its patience, too
}

// catchUp copies what is behind the last record, as much as there is time for.
func (a *auditor) catchUp(ctx context.Context, bucket string) error {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	last, err := a.js.last(ctx, AuditStream, auditSubject(bucket))
	if err != nil {
		return fmt.Errorf("read the last record: %w", err)
	}
	var done AuditRecord
	if last.seq > 0 {
		if err := json.Unmarshal(last.data, &done); err != nil {
			return fmt.Errorf("decode the last record: %w", err)
		}
	}
	expect := last.seq
	for {
		m, err := a.js.next(ctx, bucketStream(bucket), done.Revision+1, keySubject(bucket, ">"))
		if err != nil || m.seq == 0 {
			return err
		}
		done = recordOf(bucket, m)
		if done.Name == access.FenceKey {
			continue
		}
		if expect, err = a.append(ctx, done, expect); err != nil {
			return fmt.Errorf("append a record: %w", err)
		}
	}
}

func recordOf(bucket string, m storedMsg) AuditRecord {
	return AuditRecord{
		Who: m.header.Get(headerWho), User: m.header.Get(headerUser), What: m.header.Get(headerWhat), Node: m.header.Get(headerNode), When: m.when.UTC(),
		Bucket: bucket, Name: strings.TrimPrefix(m.subject, keySubject(bucket, "")), Revision: m.seq,
	}
}

func (a *auditor) append(ctx context.Context, r AuditRecord, expect uint64) (uint64, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return 0, err
	}
	return a.js.publish(ctx, auditSubject(r.Bucket), nats.Header{}, body, &expectation{seq: expect})
}
