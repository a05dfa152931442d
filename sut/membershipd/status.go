package membershipd

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/unibus/unibus/sut/membershipd/access"
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
		Peers: emptyNotNil(slices.Clone(s.Peers)), Buckets: emptyNotNil(s.Buckets), Audit: s.Audit, Posture: s.Posture,
		ProbeSeconds: secondsOrNever(d.probeAge()), AgeSeconds: time.Since(s.at).Seconds(), UptimeSeconds: time.Since(d.started).Seconds(),
	}
	for i := range out.Peers {
		out.Peers[i].ClockAheadSeconds = d.clocks.ahead(out.Peers[i].Name)
	}
	out.Access, out.Store = d.access(), *d.guard.told.Load()
	out.TLS = d.tls.status(time.Now())
	out.Posture.TLS = out.TLS.Clients.Enabled && out.TLS.Routes.Enabled
	if l, ok := out.TLS.Expired(time.Now()); ok {
		why := "the certificate of " + l + " has expired: connections that end are not replaced"
		if out.Posture.Why != "" {
			why += "; " + out.Posture.Why
		}
		out.Posture.State, out.Posture.Why = health.PostureDegraded, why
	}
	if s.at.IsZero() {
		out.AgeSeconds = -1
	}
	if len(s.Reasons) > 0 {
		out.Reason = s.Reasons[0]
	}
	return out
}

const quarantinesShown = 20

func (d *Daemon) access() health.Access {
	stats, quarantined := d.users.index.Stats(), d.users.index.Quarantined()
	revisions, _ := d.users.index.Revisions()
	out := health.Access{
		Loaded: d.users.loaded(), Users: stats.Users, Roles: stats.Roles, Rooms: stats.Rooms, Members: stats.Members,
		Quarantined: []health.Quarantined{}, Quarantines: len(quarantined), Applied: map[string]uint64{},
		AgeSeconds: secondsOrNever(d.users.age()), Stale: d.users.stale(), Sessions: d.users.sessions.count(), Rewinds: d.users.rewinds.Load(),
	}
	for _, q := range quarantined[:min(len(quarantined), quarantinesShown)] {
		out.Quarantined = append(out.Quarantined, health.Quarantined{Bucket: q.Bucket.String(), Key: printable(q.Key), Revision: q.Revision, Why: q.Why})
	}
	for b := range access.Bucket(access.NumBuckets) {
		out.Applied[b.String()] = revisions[b]
	}
	if s := d.seed.Load(); s != nil {
		if told := s.status.Load(); told != nil {
			out.Seed = *told
		}
	}
	return out
}

// printable keeps what somebody wrote into a bucket from writing to a terminal.
func printable(s string) string {
	q := strconv.QuoteToASCII(s)
	return q[1 : len(q)-1]
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
