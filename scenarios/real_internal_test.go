package scenarios

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/unibus/unibus/faults"
	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/sut/cluster"
	"github.com/unibus/unibus/sut/process"
	"github.com/unibus/unibus/sut/subject"
)

// short is a scenario of every sort of step, on real daemons: start, converge, load, kill, heal, read back.
func short() Scenario {
	return Scenario{
		Name: "short", Family: "short", Doc: "a test's own", Only: cluster.Membershipd, Needs: []cluster.Capability{cluster.CapLifecycle, cluster.CapStorage},
		Steps: func(p *Plan) []Step {
			return []Step{
				startAll(), converge("first start"), loadUp(standardLoad(p)...), moreOps(150, opsWithin), mark("kill"),
				inject("down", faults.Kill, faults.Follower(ordersCopies)), hold("one node down", 2*time.Second), heal("down"), converge("healed"),
				moreOps(400, opsWithin), mark("end"), stopLoad(), converge("at the end"),
			}
		},
		Claims: func(r *Run) []reports.Claim {
			// The bounds are low: the bucket's leader may be the one that is killed, and the next one is elected when most of the time is over.
			return append(loadIntact(),
				streamIntact(20), convergedEach(r), copiesAgree(dataCopies(r)...), truthful(), faultsInForce(1),
				claim("kv-linearizable", "The bucket is linearizable.", check.KVLinearizable{Target: ordersBucket, Keys: kvKeys, MinOps: 10}),
				claim("kv-durable", "Each key ends with its last acked value.", check.KVDurable{Target: ordersBucket, MinKeys: 2}),
				claim("control-linearizable", "The settings are linearizable.", check.KVLinearizable{Target: settings, Keys: controlKeys, MinOps: 5}),
				claim("control-durable", "Each setting ends with its last acked value.", check.KVDurable{Target: settings, MinKeys: 1}),
				claim("write-gap", "Writes go on.", check.Availability{Window: window("kill", "end"), Kinds: []string{"publish"}, Targets: []string{ordersStream}, MinOK: 10}),
				exercised(check.Preconditions{MinOps: 100, MinBefore: 20, MinDuring: 10, MinAfter: 10, Drained: drained(r)}),
			)
		},
	}
}

func TestExecuteOnProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts real daemons")
	}
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command on PATH to build the daemon with")
	}
	sub, err := subject.Resolve(t.Context(), string(cluster.Membershipd), subject.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	b := process.New(process.Options{Dir: tmp})
	set := Settings{Backend: b, Subject: sub, Plain: sub, RunID: "r1", Seed: 7, OutDir: t.TempDir(), Env: reports.Environment{Backend: process.Name, Clusters: 1}}
	began := time.Now()
	p, dir, err := Execute(t.Context(), short(), set)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s in %v: %s", p.Status, time.Since(began).Round(time.Second), p.Why)
	if p.Status != reports.StatusPass {
		for _, c := range p.Claims {
			t.Logf("%s: %v: %s", c.Claim.ID, c.Result.Verdict, c.Result.Reason)
		}
		t.Errorf("the status is %s: %s", p.Status, p.Why)
	}
	if rep, err := reports.Verify(dir); err != nil {
		t.Errorf("verify: %v: %v", err, rep.Problems)
	}
	for _, c := range p.Controls {
		if !c.Fired && !c.Skipped {
			t.Errorf("the damage %q under %s was not caught", c.Name, c.Claim)
		}
	}
	if logs, err := filepath.Glob(filepath.Join(dir, "logs", "*", "daemon.log")); err != nil || len(logs) != 3 {
		t.Errorf("logs: %v (%v), want 3", logs, err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("close the backend: %v", err)
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}
