package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// checkers is every checker by the name that stands in scenarios and proofs.
var checkers = map[string]func() Checker{
	"stream-accounting": func() Checker { return &StreamAccounting{} },
	"replica-agreement": func() Checker { return &ReplicaAgreement{} },
	"kv-linearizable":   func() Checker { return &KVLinearizable{} },
	"kv-durable":        func() Checker { return &KVDurable{} },
	"no-ack":            func() Checker { return &NoAck{} },
	"availability":      func() Checker { return &Availability{} },
	"health":            func() Checker { return &HealthCheck{} },
	"health-truth":      func() Checker { return &HealthTruth{} },
	"converged":         func() Checker { return &Converged{} },
	"faults":            func() Checker { return &Faults{} },
	"preconditions":     func() Checker { return &Preconditions{} },
	"consumer":          func() Checker { return &Consumers{} },
	"core-delivered":    func() Checker { return &CoreDelivered{} },
	"client-gaps":       func() Checker { return &ClientGaps{} },
	"acl":               func() Checker { return &ACL{} },
	"effect":            func() Checker { return &Effect{} },
	"users":             func() Checker { return &Users{} },
	"monotonic-direct":  func() Checker { return &StaleReads{} },
	"cas-serialized":    func() Checker { return &CASSerialized{} },
	"stream-metadata":   func() Checker { return &StreamMetadata{} },
	"measured":          func() Checker { return &Measured{} },
	"latency":           func() Checker { return &Latency{} },
	"connections":       func() Checker { return &Connections{} },
	"deduplication":     func() Checker { return &Deduplication{} },
	"appends":           func() Checker { return &Appends{} },
	"work-queue":        func() Checker { return &WorkQueue{} },
}

// strict decodes parameters: a field that the checker does not have, or anything after the value, is an error, because a
// misspelt bound would otherwise be no bound at all. No parameters mean the defaults.
func strict(raw json.RawMessage, into any) error {
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("decode: something follows the value")
	}
	return nil
}
