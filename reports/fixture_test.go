package reports_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/unibus/unibus/reports"
	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

const second = int64(time.Second)

// sampleHistory is a run of 90 s with five kills: 300 operations a second, each fault followed by 3 s without a leader.
func sampleHistory(seed uint64) *history.History {
	rng := rand.New(rand.NewPCG(seed, 1))
	h := &history.History{}
	faultsAt := []int64{12, 27, 42, 57, 72}
	nodes := []string{"n1", "n2", "n3"}
	down := func(at int64) (int, bool) {
		for i, f := range faultsAt {
			if at > f*second && at < (f+8)*second {
				return i, true
			}
		}
		return 0, false
	}
	h.Events = append(h.Events,
		history.Event{At: 1, Kind: "phase", Name: "start all"}, history.Event{At: 3 * second, Kind: "leader", Name: "meta", Nodes: []string{"n1"}},
		history.ConvergedEvent("first start", history.Convergence{OK: true, Seconds: 4.2, Ready: nodes, Buckets: 6, Replicas: 3, Current: true, Identical: true}),
		history.Event{At: 5 * second, Kind: "mark", Name: "steady"})
	h.Events[2].At = 4 * second
	for i, f := range faultsAt {
		n := nodes[i%3]
		name := fmt.Sprintf("kill[%s]#%d", n, i+1)
		ev := func(off float64, st history.Stage, detail string) {
			e := history.Event{At: f*second + int64(off*1e9), Kind: "fault", Name: name, Stage: st, Nodes: []string{n}, Detail: detail}
			if detail != "" {
				e.Data = map[string]any{"in_force": st == history.StageInForce || st == history.StageStillOn}
			}
			h.Events = append(h.Events, e)
		}
		ev(-0.2, history.StageAbsent, "process 4242 runs")
		ev(0, history.StageDecided, "")
		ev(0.0087, history.StageInForce, "process 4242 is gone, exit by signal 9, port 4222 refuses connections")
		ev(0.1, history.StageBystand, "process 17 of another node runs")
		ev(3, history.StageStillOn, "no process")
		ev(6, history.StageHealing, "")
		ev(8, history.StageHealed, "process 4311 runs, started 1.9 s ago")
		h.Events = append(h.Events, history.Event{At: (f + 3) * second, Kind: "leader", Name: "meta", Nodes: []string{nodes[(i+1)%3]}})
	}
	h.Events = append(h.Events, history.Event{At: 85 * second, Kind: "phase", Name: "drain"}, history.Event{At: 85 * second, Kind: "mark", Name: "drain-begins"}, history.Event{At: 86 * second, Kind: "mark", Name: "end"})
	sortEvents(h)
	seq := uint64(0)
	for at := 5 * second; at < 85*second; at += second / 200 {
		op := history.Op{ID: int64(len(h.Ops) + 1), Client: fmt.Sprintf("pub-%d", rng.IntN(6)), Node: nodes[rng.IntN(3)], Kind: history.Publish, Target: "ORDERS", Key: "orders.a", Invoke: at}
		op.Value = fmt.Sprintf("m%d", op.ID)
		took := int64(math.Exp(rng.NormFloat64()*0.5) * 2.5e6)
		i, isDown := down(at)
		since := at - faultsAt[i]*second
		switch {
		case isDown && since < 3*second && rng.IntN(3) == 0:
			op.Outcome, op.Err = history.Failed, "no-responders"
			op.Complete = at + took/4
		case isDown && since < 3*second:
			op.Outcome, op.Err = history.Unknown, "timeout"
			op.Complete = at + 2*second
			if rng.IntN(20) == 0 {
				op.Complete = 0
			}
		default:
			op.Outcome, op.Complete = history.OK, at+took
			seq++
			op.Seq = seq
			h.Items = append(h.Items, history.Item{Target: "ORDERS", Seq: seq, Key: op.Key, Value: op.Value})
		}
		h.Ops = append(h.Ops, op)
	}
	h.Drains = append(h.Drains, history.Drain{Target: "ORDERS", At: 89 * second, Complete: true, Items: len(h.Items), First: 1, Last: seq})
	for at := int64(0); at < 88*second; at += second / 10 {
		i, isDown := down(at)
		for k, n := range nodes {
			x := history.Health{Node: n, Probe: "ready", At: at + 1, Took: second / 1000, Code: 200, Reason: "ok"}
			live := history.Health{Node: n, Probe: "live", At: at + 1, Took: second / 1000, Code: 200, Reason: "ok"}
			switch since := at - faultsAt[i]*second; {
			case at < 4*second:
				x.Code, x.Reason = 503, "no quorum: 1 of 3 peers seen"
			case isDown && i%3 == k && since < 6*second:
				x.Code, x.Reason = 0, "connection refused"
				live.Code, live.Reason = 0, "connection refused"
			case isDown && i%3 == k:
				x.Code, x.Reason = 503, "bucket UNIBUS_users: this replica is not current"
			case isDown && since < 3*second:
				x.Code, x.Reason = 503, "no meta leader"
			}
			h.Health = append(h.Health, x, live)
		}
	}
	return h
}

func sortEvents(h *history.History) {
	slices.SortStableFunc(h.Events, func(a, b history.Event) int { return int((a.At - b.At) / 1000) })
}

func sampleEvidence(scenario string, claims ...reports.Claim) reports.Evidence {
	return reports.Evidence{
		Run: "r20260102", Scenario: scenario, Family: scenario, Doc: "kill the stream's leader, the meta leader and a follower under load, five times",
		Seed: 7, Command: "make chaos SCENARIO=" + scenario + " SEED=7", Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Seconds: 91.25,
		Subject: reports.Subject{Kind: "membershipd", Version: "v0.1.0", Digest: digestA},
		Harness: reports.Subject{Kind: "chaos", Version: "v0.1.0", Digest: digestB},
		Env:     reports.Environment{Backend: "docker", Engine: "20.10.24", OS: "linux", Kernel: "6.18.0", Arch: "amd64", CPUs: 2, Go: "go1.26.0", Clusters: 1, Images: map[string]string{"membershipd": "sha256:1234", "faultd": "sha256:5678"}},
		Claims:  claims,
	}
}

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func positive(id, text string, c check.Checker) reports.Claim {
	return reports.Claim{ID: id, Text: text, Spec: check.Of(c), Expect: check.Pass}
}

func negative(id, text, code string, c check.Checker) reports.Claim {
	return reports.Claim{ID: id, Text: text, Spec: check.Of(c), Expect: check.Fail, ExpectCode: code}
}

// goodClaims pass on sampleHistory.
func goodClaims() []reports.Claim {
	return []reports.Claim{
		positive("stream-intact", "Nothing acked is lost, nothing appears that was not sent.", check.StreamAccounting{Target: "ORDERS", MinAcked: 100}),
		positive("faults-in-force", "Every fault was measured in force and gone again.", check.Faults{Min: 5}),
		positive("gap", "Writes are never away for longer than 20 s.", check.Availability{Window: check.Window{From: "steady", To: "drain-begins"}, MaxGapSeconds: 20}),
		positive("clients-served", "No client stays stranded.", check.ClientGaps{Window: check.Window{From: "steady", To: "end"}}),
		positive("health-truth", "No node said that it was ready while nobody could write.", check.HealthTruth{GraceSeconds: 5, MinSamples: 100}),
		positive("exercised", "The run did enough to be judged.", check.Preconditions{MinOps: 1000, MinBefore: 100, MinDuring: 100, MinAfter: 100, Drained: []string{"ORDERS"}}),
		negative("acks-nothing", "No write is acked. (Must fail.)", "acked-without-quorum", check.NoAck{}),
	}
}

// seal writes a bundle up to the evidence.
func seal(t testing.TB, h *history.History, ev reports.Evidence) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), ev.Scenario)
	sealIn(t, dir, h, ev)
	return dir
}

func sealIn(t testing.TB, dir string, h *history.History, ev reports.Evidence) {
	t.Helper()
	b, err := reports.Create(dir)
	must(t, err)
	must(t, b.SaveSnapshot("statusz-n1", map[string]any{"node": "n1", "ready": true}))
	must(t, os.WriteFile(filepath.Join(b.LogDir(), "n1.log"), []byte("started\nready\n"), 0o644))
	if h != nil {
		must(t, b.Replace(h))
	}
	must(t, b.Seal(ev))
}

// finish judges and finishes the bundle.
func finish(t testing.TB, dir string) reports.Proof {
	t.Helper()
	p, err := reports.Judge(dir)
	must(t, err)
	must(t, reports.Finish(dir, p))
	return p
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
