package membershipd

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/unibus/unibus/sut/membershipd/health"
)

const (
	// tlsPoll is the time between two looks at the files. Changed files are read when they have stayed the same from one look to the next, so that
	// a pair is not read while it is being written.
	tlsPoll = time.Second
	// tlsRetry is how long files that could not be used rest before they are read again: what was wrong may have been the time, or the disk.
	tlsRetry = time.Minute
	// tlsSoon is when a certificate that expires is worth a warning.
	tlsSoon = 14 * 24 * time.Hour
)

// fingerprint tells states of files apart by what is in them and who may read them. Times, sizes and inodes would not do: a file that tar, rsync or cp
// put in the place of another may have all of the other's.
type fingerprint string

func (k *keyring) look() fingerprint {
	h := sha256.New()
	for _, path := range []string{k.cert, k.key, k.ca} {
		if path == "" {
			continue
		}
		content, err := os.ReadFile(path)
		var mode os.FileMode
		if info, statErr := os.Stat(path); statErr == nil {
			mode = info.Mode()
		}
		_, _ = fmt.Fprintf(h, "%s %v %v %x\n", path, mode, err, sha256.Sum256(content)) // a hash takes every write
	}
	return fingerprint(h.Sum(nil))
}

// watch reloads until ctx ends.
func (cs *certificates) watch(ctx context.Context, kicks <-chan struct{}) {
	t := time.NewTicker(tlsPoll)
	defer t.Stop()
	seen := map[*keyring]fingerprint{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-kicks:
			for _, k := range cs.listeners {
				cs.reload(k, "asked for")
			}
			if len(cs.listeners) == 0 {
				cs.log.Info("nothing to reload: there are no certificates")
			}
		case <-t.C:
			cs.poll(seen)
		}
	}
}

// poll reads files that have changed and stay as they are, and from time to time those that could not be used. seen is what the last look has found.
func (cs *certificates) poll(seen map[*keyring]fingerprint) {
	for _, k := range cs.listeners {
		now := k.look()
		switch {
		case now != seen[k]:
		case now != k.tried:
			cs.reload(k, "files changed")
		case k.failed() && cs.now().Sub(k.triedAt) >= tlsRetry:
			cs.reload(k, tryAgain)
		}
		seen[k] = now
	}
}

// tryAgain is the reason for a reload that nobody asked for, of files that did not change.
const tryAgain = "try again"

func (k *keyring) failed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failure != ""
}

// Reload makes the daemon read its certificates, keys and authorities again, as SIGHUP asks for. It does not wait. What cannot be used is
// reported and not put in force.
func (d *Daemon) Reload() {
	select {
	case d.reloads <- struct{}{}:
	default:
	}
}

// reload puts what is in the files in force, or keeps what is.
func (cs *certificates) reload(k *keyring, why string) {
	k.tried, k.triedAt = k.look(), cs.now()
	m, err := k.load(k.triedAt)
	if err == nil {
		err = cs.apart(k, m)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		before := k.cause
		k.failure, k.cause = err.Error(), causeOf(err)
		if why == tryAgain && k.cause == before {
			return
		}
		k.failures++
		cs.log.Error("the new certificates cannot be used: keep the old ones", "listener", k.listener, "why", why, "error", err, "not_after", k.current.Load().leaf.NotAfter)
		return
	}
	k.reloads++
	k.failure, k.cause = "", ""
	k.current.Store(m)
	cs.log.Info("certificates reloaded", "listener", k.listener, "why", why, "not_after", m.leaf.NotAfter, "serial", m.leaf.SerialNumber.Text(serialBase), "authorities", len(m.authorities))
}

// timeOfAttempt is what the standard library tells of certificates that are not valid yet, or not any more.
var timeOfAttempt = regexp.MustCompile(`current time \S+`)

// causeOf is an error's text without the time of the attempt.
func causeOf(err error) string { return timeOfAttempt.ReplaceAllString(err.Error(), "") }

// serialBase is the notation of serial numbers, as openssl has it.
const serialBase = 16

// status tells people and tools what is in force.
func (cs *certificates) status(now time.Time) health.TLS {
	return health.TLS{Clients: cs.of(listenerClients).status(now), Routes: cs.of(listenerRoutes).status(now)}
}

func (k *keyring) status(now time.Time) health.TLSListener {
	if k == nil {
		return health.TLSListener{Warning: "plain text"}
	}
	m := k.current.Load()
	k.mu.Lock()
	defer k.mu.Unlock()
	s := health.TLSListener{
		Enabled: true, ClientAuth: TLSNone, NotAfter: m.leaf.NotAfter.UTC(), Serial: m.leaf.SerialNumber.Text(serialBase), Authorities: len(m.authorities),
		Loaded: m.loaded.UTC(), Reloads: k.reloads, ReloadFailures: k.failures, ReloadError: k.failure,
	}
	if k.clientAuth != 0 {
		s.ClientAuth = TLSVerify
	}
	if a := first(m.authorities); a != nil {
		at := a.NotAfter.UTC()
		s.AuthorityNotAfter = &at
	}
	s.Warning = warning(s, now)
	return s
}

// first is the authority that expires first.
func first(all []*x509.Certificate) (f *x509.Certificate) {
	for _, a := range all {
		if f == nil || a.NotAfter.Before(f.NotAfter) {
			f = a
		}
	}
	return f
}

func warning(s health.TLSListener, now time.Time) string {
	switch left := s.NotAfter.Sub(now); {
	case left <= 0:
		return "the certificate has expired"
	case s.ReloadError != "":
		return "the files hold certificates that cannot be used"
	case left < tlsSoon:
		return fmt.Sprintf("the certificate expires in %.1f days", left.Hours()/24)
	}
	return ""
}
