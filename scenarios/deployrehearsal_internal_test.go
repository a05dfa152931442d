package scenarios

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/sut/cluster"
)

// onFake says that hosts can be had, and that they are what b makes.
func onFake(b *fakeBackend) func(*Settings) {
	return func(set *Settings) { set.Hosts = func(context.Context) (cluster.Backend, error) { return b, nil } }
}

// Where hosts cannot be had the rehearsal is NOT RUN, with the reason, and nothing is made.
func TestRehearsalWithoutHosts(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	own := func(set *Settings) { set.Subject = cluster.Subject{Kind: cluster.Membershipd} }
	none := func(set *Settings) {
		set.Hosts = func(context.Context) (cluster.Backend, error) { return nil, errors.New("debootstrap is not installed") }
	}
	for name, c := range map[string]struct {
		how func(*Settings)
		why string
	}{
		"no engine": {func(*Settings) {}, "there is no engine"},
		"no system": {none, "debootstrap is not installed"},
	} {
		t.Run(name, func(t *testing.T) {
			e := executed(t.Context(), t, deployRehearsal(), &fakeBackend{t: t, makeErr: errBroken}, own, c.how)
			if e.Status != reports.StatusNotRun || !strings.Contains(e.Why, c.why) {
				t.Errorf("the status is %s: %s", e.Status, e.Why)
			}
		})
	}
}

// A run that names no scenario leaves the rehearsal out; one that names it, or wants everything, does not.
func TestRehearsalIsNightly(t *testing.T) {
	has := func(words string, full bool) bool {
		list, err := Select(All(), words, full)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			if s.Name == "deploy-rehearsal" {
				return true
			}
		}
		return false
	}
	if has("", false) || !has("", true) || !has("deploy-rehearsal", false) {
		t.Errorf("default %t, full %t, named %t", has("", false), has("", true), has("deploy-rehearsal", false))
	}
}
