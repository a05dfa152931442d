package check_test

import (
	"bytes"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/unibus/unibus/reports/check"
	"github.com/unibus/unibus/reports/history"
)

func drawWorld(t *rapid.T) *world {
	return newWorld(rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 4).Draw(t, "publishers"), rapid.IntRange(1, 4).Draw(t, "writers"),
		rapid.Int64Range(50, 300).Draw(t, "think")*ms, rapid.Float64Range(0, 0.3).Draw(t, "unknown"))
}

// TestGoodHistoriesPass and every mutation of them is caught: with the wanted verdict, for the wanted reason.
func TestGoodHistoriesPass(t *testing.T) {
	t.Parallel()
	applied := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		before := w.h
		specs := goodSpecs()
		for _, s := range specs {
			r, err := s.Run(&w.h)
			if err != nil || r.Verdict != check.Pass {
				t.Fatalf("%s %s: %v %+v", s.Checker, s.Params, err, r)
			}
			if r.Code != "" || r.Reason == "" || len(r.Figures) == 0 || r.Promise != "" {
				t.Fatalf("%s: a pass must have a reason and figures, and no code: %+v", s.Checker, r)
			}
		}
		for _, m := range check.RunMutations(specs, &w.h, 7) {
			if !m.Applied {
				continue
			}
			applied[specs[m.Spec].Checker+"/"+m.Mutation]++
			if !m.Fired {
				t.Fatalf("%s of %s %s was not caught: %+v, want %s %s; %s", m.Mutation, specs[m.Spec].Checker, specs[m.Spec].Params, m.Result, m.Verdict, m.Want, m.Note)
			}
			if m.Result.Verdict == check.Fail && (m.Result.Promise == "" || len(m.Result.Witnesses) == 0 || len(m.Result.Witnesses) > check.MaxWitnesses || len(m.Result.Figures) == 0) {
				t.Fatalf("%s: a failure must have a promise, witnesses and figures: %+v", m.Mutation, m.Result)
			}
		}
		if !reflect.DeepEqual(before, w.h) {
			t.Fatalf("judging changed the history")
		}
	})
	if t.Failed() {
		return
	}
	for _, m := range check.Mutations {
		if applied[m.Checker+"/"+m.Name] == 0 {
			t.Errorf("the mutation %s of %s never applied", m.Name, m.Checker)
		}
	}
}

// TestMutationsLeaveTheOriginal: what a mutation changes, it changes in a copy.
func TestMutationsLeaveTheOriginal(t *testing.T) {
	t.Parallel()
	w, same := newWorld(3, 2, 2, 100*ms, 0.1), newWorld(3, 2, 2, 100*ms, 0.1)
	if len(check.RunMutations(goodSpecs(), &w.h, 1)) == 0 {
		t.Fatal("no mutation ran")
	}
	if !reflect.DeepEqual(w.h, same.h) {
		t.Error("a mutation changed the history that it was given")
	}
}

// TestRunMutationsRepeats: a proof is judged again by others, and must come out the same.
func TestRunMutationsRepeats(t *testing.T) {
	t.Parallel()
	w := newWorld(3, 2, 2, 100*ms, 0.1)
	a, b := check.RunMutations(goodSpecs(), &w.h, 9), check.RunMutations(goodSpecs(), &w.h, 9)
	if !reflect.DeepEqual(a, b) {
		t.Error("the same seed gave other mutations or results")
	}
}

// TestRunMutationsLeavesOutWhatDoesNotPass: damaging a damaged history shows nothing.
func TestRunMutationsLeavesOutWhatDoesNotPass(t *testing.T) {
	t.Parallel()
	if got := check.RunMutations(append(goodSpecs(), check.Spec{Checker: "no such checker"}), &history.History{}, 1); len(got) != 0 {
		t.Errorf("mutations of an empty history: %+v", got)
	}
}

// TestEmptyHistoryIsInconclusive for every checker and any parameters: no evidence, no verdict.
func TestEmptyHistoryIsInconclusive(t *testing.T) {
	t.Parallel()
	for _, name := range check.Names() {
		for _, params := range []string{"", "{}"} {
			r, err := check.Spec{Checker: name, Params: []byte(params)}.Run(&history.History{})
			if err != nil || r.Verdict != check.Inconclusive || r.Code == "" || r.Reason == "" {
				t.Errorf("%s on nothing: %v %+v", name, err, r)
			}
		}
	}
	for _, s := range goodSpecs() {
		if r, err := s.Run(&history.History{}); err != nil || r.Verdict != check.Inconclusive {
			t.Errorf("%s on nothing: %v %+v", s.Checker, err, r)
		}
	}
}

// TestSameAfterFile: the verdict does not depend on whether the history went through a file.
func TestSameAfterFile(t *testing.T) {
	t.Parallel()
	w := newWorld(11, 3, 3, 100*ms, 0.1)
	h := throughFile(t, &w.h)
	for _, s := range goodSpecs() {
		a, err1 := s.Run(&w.h)
		b, err2 := s.Run(h)
		if err1 != nil || err2 != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%s: %+v (%v), after the file %+v (%v)", s.Checker, a, err1, b, err2)
		}
	}
}

func throughFile(t *testing.T, h *history.History) *history.History {
	t.Helper()
	var file bytes.Buffer
	r, err := history.NewRecorder(&file)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range h.Items {
		r.Item(x)
	}
	for _, x := range h.Drains {
		r.Drain(x)
	}
	for _, x := range h.Deliveries {
		r.Delivery(x)
	}
	for _, x := range h.Health {
		r.Health(x)
	}
	for _, x := range h.Replicas {
		r.Replica(x)
	}
	for _, x := range h.Conns {
		r.Conn(x)
	}
	for _, x := range h.Events {
		r.Event(x)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := history.Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	got.Ops = h.Ops // the recorder stamps operations itself
	for i := range got.Health {
		if got.Health[i].At == 0 || i < len(h.Health) && h.Health[i].At == 0 {
			got.Health[i].At = h.Health[i].At // it also stamps what stands at zero
		}
	}
	for i := range got.Events {
		got.Events[i].At = h.Events[i].At
	}
	return got
}
