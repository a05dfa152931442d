package membershipd

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

// binaryDigest is that of the running binary, also when the file has been replaced since. It is taken once, when somebody asks.
var binaryDigest = sync.OnceValue(func() string {
	path := "/proc/self/exe"
	f, err := os.Open(path)
	if err != nil {
		if path, err = os.Executable(); err != nil {
			return ""
		}
		if f, err = os.Open(path); err != nil {
			return ""
		}
	}
	defer f.Close() //nolint:errcheck // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
})

// status is the document for people and for tools.
func (d *Daemon) status() health.Status {
	s := d.eval.view()
	out := health.Status{
		Node: d.cfg.Name, Version: d.cfg.Version, Digest: binaryDigest(),
		Ready: s.Ready, Reasons: emptyNotNil(s.Reasons),
		ClusterSize: len(d.cfg.Routes), Quorum: s.Quorum, MetaLeader: s.facts.Meta.Leader,
		Peers: emptyNotNil(s.Peers), Buckets: emptyNotNil(s.Buckets), Audit: s.Audit, Posture: s.Posture,
		ProbeSeconds: secondsOrNever(d.probeAge()), AgeSeconds: time.Since(s.at).Seconds(), UptimeSeconds: time.Since(d.started).Seconds(),
	}
	if s.at.IsZero() {
		out.AgeSeconds = -1
	}
	if len(s.Reasons) > 0 {
		out.Reason = s.Reasons[0]
	}
	return out
}

func secondsOrNever(age time.Duration) float64 {
	if age < 0 {
		return -1
	}
	return age.Seconds()
}

// emptyNotNil makes an empty list [] in JSON rather than null.
func emptyNotNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
