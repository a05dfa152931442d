package membershipd

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/unibus/unibus/sut/membershipd/access"
)

// hang makes every use of a file wait, as on a disk that does not answer, until the returned function is called.
func hang(t *testing.T, path string) (answer func()) {
	t.Helper()
	fifo := path + ".fifo"
	if err := syscall.Mkfifo(fifo, secretMode); err != nil { // opening it waits for a reader
		t.Fatal(err)
	}
	if err := os.Rename(fifo, path); err != nil {
		t.Fatal(err)
	}
	answer = func() {
		if f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
			t.Cleanup(func() { _ = f.Close() })
		}
	}
	t.Cleanup(answer)
	return answer
}

// journal is the file that a node writes changes of users to.
func (c *inProcess) journal(i int) string {
	c.t.Helper()
	all, err := filepath.Glob(filepath.Join(c.confs[i].accessDir(), "journal.*"))
	if err != nil || len(all) != 1 {
		c.t.Fatalf("the journals: %v, %v", all, err)
	}
	return all[0]
}

// TestDiskThatHangs: a node whose disk does not answer puts revoked users out all the same, does not say that their removal is on its disk, answers
// questions, says that it is not well, and ends.
func TestDiskThatHangs(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	admin := c.api(c.admin, 0)
	users := map[string]nkeys.KeyPair{}
	for _, name := range []string{"first", "second", "third"} {
		users[name] = c.add(t, admin, name, access.RoleMember)
	}
	c.stop(1) // the next life opens its journal with the next change
	d, err := New(c.confs[1])
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.Run(t.Context()) }()
	c.nodes[1] = d
	t.Cleanup(func() { c.nodes[1] = nil })
	c.ready(0, 1, 2)
	journalAnswers := hang(t, c.journal(1))

	for _, name := range []string{"first", "second"} { // the second comes while the first one's removal waits for the disk
		nc, err := c.login(users[name], 1)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := admin.DisableUser(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(ch.Pending, "n2") || slices.Contains(ch.Applied, "n2") {
			t.Errorf("%s is disabled, and n2 has it on disk: %+v", name, ch)
		}
		closed(t, nc)
		if _, err := c.login(users[name], 1); err == nil {
			t.Errorf("%s gets in again", name)
		}
	}
	if _, err := c.login(users["third"], 1); err != nil {
		t.Errorf("a user who may: %v", err)
	}
	web := http.Client{Timeout: soonest}
	for _, path := range []string{"/livez", "/statusz", "/metrics"} {
		resp, err := web.Get("http://" + c.confs[1].HTTPListen + path) //nolint:noctx // has a timeout
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s, %v", path, resp.Status, err)
		}
	}
	if s, err := c.api(c.admin, 1).Status(t.Context()); err != nil || s.Node != "n2" || !s.Access.Loaded {
		t.Errorf("the status: %+v, %v", s.Node, err)
	}

	hang(t, d.disk.path)
	untilTrue(t, "it says that its disk does not answer", func() bool {
		return strings.Contains(strings.Join(d.eval.view().Reasons, "\n"), "nothing was synced in the data directory for")
	})
	d.disk.waited.Store(diskPatience)
	select {
	case err := <-ended:
		if !errors.Is(err, ErrDiskLost) {
			t.Errorf("it ended: %v", err)
		}
	case <-time.After(settleWait):
		t.Fatal("it does not end")
	}
	if _, err := claimDataDir(c.confs[1]); err == nil {
		t.Error("the data directory is free while a write is under way")
	}
	journalAnswers()
	untilTrue(t, "the data directory is free", func() bool {
		release, err := claimDataDir(c.confs[1])
		return err == nil && release() == nil
	})
}

// TestStopWhileTheDiskHangs: a node that is told to end does.
func TestStopWhileTheDiskHangs(t *testing.T) {
	c := newInProcess(t, nil)
	c.startAll()
	admin := c.api(c.admin, 0)
	c.add(t, admin, "user", access.RoleMember)
	c.stop(1)
	c.start(1)
	c.ready(0, 1, 2)
	hang(t, c.journal(1))
	if ch, err := admin.DisableUser(t.Context(), "user"); err != nil || !slices.Contains(ch.Pending, "n2") {
		t.Fatalf("%+v, %v", ch, err)
	}
	c.stop(1)
}

// TestPlaneAndDisk: what is told as on disk is there, whatever happens between a change and its write.
func TestPlaneAndDisk(t *testing.T) {
	for _, c := range []struct {
		name    string
		between func(p *accessPlane) // between the change and its write
	}{
		{"a journal", func(*accessPlane) {}},
		{"more than the journal takes", func(p *accessPlane) { p.renew() }},
		{"a bucket that lost its end", func(p *accessPlane) { p.replace(access.Rooms, "again", 0, nil) }},
		{"a snapshot that is due", func(p *accessPlane) { p.due = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := Config{Name: "n1", DataDir: t.TempDir()}
			p := newAccessPlane(conf, slog.New(slog.DiscardHandler))
			if err := p.load(); err != nil {
				t.Fatal(err)
			}
			p.apply([]access.Record{{Bucket: access.Users, Key: access.FenceKey, Revision: 3}})
			p.write()
			if got := p.durable(); got != (access.Revisions{}) {
				t.Errorf("before there is a snapshot: %v", got)
			}
			for b := range access.Bucket(access.NumBuckets) {
				p.caughtUp(b, time.Now())
			}
			p.write()
			if got := p.durable(); got != (access.Revisions{access.Users: 3}) {
				t.Errorf("after the first snapshot: %v", got)
			}
			p.apply([]access.Record{{Bucket: access.Users, Key: access.FenceKey, Revision: 5}})
			if got := p.durable()[access.Users]; got != 3 {
				t.Errorf("before it is written: %d", got)
			}
			c.between(p)
			p.write()
			if got := p.durable()[access.Users]; got != 5 {
				t.Errorf("after it is written: %d", got)
			}
			p.store.Close()
			again := newAccessPlane(conf, slog.New(slog.DiscardHandler))
			if err := again.load(); err != nil {
				t.Fatal(err)
			}
			if got := again.durable()[access.Users]; got != 5 {
				t.Errorf("on disk: %d", got)
			}
		})
	}
}

// TestPlaneChangesDuringTheWrite: a write that was begun before a bucket was read anew proves nothing about what came then.
func TestPlaneChangesDuringTheWrite(t *testing.T) {
	p := newAccessPlane(Config{Name: "n1", DataDir: t.TempDir()}, slog.New(slog.DiscardHandler))
	p.index.Apply(access.Record{Bucket: access.Users, Key: access.FenceKey, Revision: 9})
	p.save()
	begun := p.renewed
	p.replace(access.Users, "again", 2, nil)
	p.persist([]access.Record{{Bucket: access.Users, Key: access.FenceKey, Revision: 9}}, begun)
	if got := p.durable(); got != (access.Revisions{}) {
		t.Errorf("with a snapshot that is due: %v", got)
	}
	p.write()
	if got := p.durable()[access.Users]; got != 2 {
		t.Errorf("with the snapshot: %d", got)
	}
}
