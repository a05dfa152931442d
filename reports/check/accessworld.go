package check

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/unibus/unibus/reports/history"
)

// written is one change of a record that was attempted.
type written struct {
	op    *history.Op
	value string          // the record, "" for none
	sure  map[string]bool // nodes that confirmed it
	at    int64           // when they did; 0 for never
	undo  int             // index of the last write before it that was confirmed; -1 for none
}

// recordKey names a record: which bucket, which key.
type recordKey struct{ target, key string }

// accessWorld knows, for every record and moment, which values may be in force at a node.
//
//	     invoke            confirmed by n1, n3
//	───────┬───────────────────┬──────────────────────────> at n1 and n3
//	 old   │   old or new      │  new
//	───────┬───────────────────────────────┬──────────────> at n2: until a later write, or the same again, is confirmed by it
//	 old   │   old or new                  │  new
type accessWorld struct {
	records map[recordKey][]written
	rooms   []string
	nodes   []string // all that ever confirmed something
	wrong   string
	read    map[string]any // records by their text: most are asked for thousands of times
}

// changed are the operations that change a record.
var changed = map[history.Kind]bool{history.Put: true, history.Create: true, history.Update: true}

func newAccessWorld(h *history.History, wrong string) (*accessWorld, error) {
	if !wrongRules[wrong] {
		return nil, fmt.Errorf("no such wrong rule: %q", wrong)
	}
	w := &accessWorld{records: map[recordKey][]written{}, wrong: wrong, read: map[string]any{}}
	for i := range h.Ops {
		op := &h.Ops[i]
		if !changed[op.Kind] || !slices.Contains([]string{TargetUsers, TargetRoles, TargetRooms, TargetMembers}, op.Target) || op.Outcome == history.Failed {
			continue
		}
		if err := readable(op); err != nil {
			return nil, fmt.Errorf("operation %d: %w", op.ID, err)
		}
		wr := written{op: op, value: op.Value, sure: map[string]bool{}, undo: -1}
		if op.Outcome == history.OK {
			wr.at = op.Complete
			for n := range strings.SplitSeq(op.Applied, ",") {
				wr.sure[n] = n != ""
				if n != "" && !slices.Contains(w.nodes, n) {
					w.nodes = append(w.nodes, n)
				}
			}
		}
		k := recordKey{op.Target, op.Key}
		w.records[k] = append(w.records[k], wr)
	}
	for k, ws := range w.records {
		slices.SortFunc(ws, func(a, b written) int { return int(a.op.ID - b.op.ID) })
		last := -1
		for i := range ws {
			ws[i].undo = last
			if ws[i].op.Outcome == history.OK {
				last = i
			}
		}
		if k.target == TargetRooms {
			w.rooms = append(w.rooms, k.key)
		}
	}
	slices.Sort(w.rooms)
	return w, nil
}

// readable says whether the value is a record of its target: what cannot be read cannot be judged.
func readable(op *history.Op) error {
	var into any
	switch op.Target {
	case TargetUsers:
		into = &UserRecord{}
	case TargetRoles:
		into = &RoleRecord{}
	case TargetRooms:
		into = &RoomRecord{}
	default:
		into = &MemberRecord{}
	}
	return strict(json.RawMessage(op.Value), into)
}

// decode reads a value that readable has seen; nil for none.
func decode[T any](w *accessWorld, value string) *T {
	if value == "" {
		return nil
	}
	if x, ok := w.read[value].(*T); ok {
		return x
	}
	var x T
	if err := json.Unmarshal([]byte(value), &x); err != nil {
		return nil
	}
	w.read[value] = &x
	return &x
}

// settles says whether b, confirmed, makes it impossible that a is in force from then on.
func settles(a, b written) bool {
	switch {
	case a.op.Outcome == history.OK:
		return b.op.Invoke >= a.op.Complete // one writer for each record: their order is known
	case a.op.Kind == history.Put:
		return a.value == b.value // an unconditional write without an answer may still be done at any time
	}
	return true // a compare-and-set or a create cannot be done any more once the record went on
}

// inForce is the values that a record may have at a node between two moments.
func (w *accessWorld) inForce(k recordKey, node string, from, to int64) []string {
	ws := w.records[k]
	values := []string{}
	may := func(v string) {
		if !slices.Contains(values, v) {
			values = append(values, v)
		}
	}
	gone := func(i int) bool {
		for j := i + 1; j < len(ws); j++ {
			if b := ws[j]; b.sure[node] && b.at <= from && (i < 0 || settles(ws[i], b)) {
				return true
			}
		}
		return false
	}
	if !gone(-1) {
		may("")
	}
	for i := range ws {
		if ws[i].op.Invoke <= to && !gone(i) {
			may(ws[i].value)
		}
	}
	return values
}

// judge says what may lawfully be the answer to an attempt at a node. with, when it is not nil, gives one record a certain value.
//
// A call of the control API has to be allowed twice: by the node that the user is connected to, and by the one that answers, which may be any.
func (w *accessWorld) judge(a attempt, node string, from, to int64, with map[recordKey]string) tri {
	t := w.judgeAt(a, node, from, to, with)
	if a.action != ActRead && a.action != ActWrite && a.action != ActStatus {
		return t
	}
	var answers tri
	for _, n := range w.nodes {
		x := w.judgeAt(a, n, from, to, with)
		answers.yes, answers.no = answers.yes || x.yes, answers.no || x.no
	}
	if len(w.nodes) == 0 {
		return t
	}
	return tri{yes: t.yes && answers.yes, no: t.no || answers.no}
}

func (w *accessWorld) judgeAt(a attempt, node string, from, to int64, with map[recordKey]string) tri {
	values := func(k recordKey) []string {
		if v, ok := with[k]; ok {
			return []string{v}
		}
		return w.inForce(k, node, from, to)
	}
	room := w.roomsGive(a, values)
	var t tri
	for _, v := range values(recordKey{TargetUsers, a.user}) {
		u := decode[UserRecord](w, v)
		if !mayUser(u, a.key, w.wrong) {
			t.add(false)
			continue
		}
		for _, rv := range w.roleValues(u.Role, values) {
			var role RoleRecord
			if r := decode[RoleRecord](w, rv); r != nil {
				role = *r
			}
			gives, denies := mayRole(u.Role, role, a, w.wrong)
			if room.yes {
				t.add(!denies)
			}
			if room.no {
				t.add(gives && !denies)
			}
		}
	}
	return t
}

// roleValues is one empty record for a role that is built in.
func (w *accessWorld) roleValues(role string, values func(recordKey) []string) []string {
	k := recordKey{TargetRoles, role}
	if len(w.records[k]) == 0 {
		return []string{""}
	}
	return values(k)
}

// roomsGive says whether some room may, and whether none may, give it.
func (w *accessWorld) roomsGive(a attempt, values func(recordKey) []string) tri {
	t := tri{no: true}
	for _, name := range w.rooms {
		var one tri
		for _, rv := range values(recordKey{TargetRooms, name}) {
			for _, mv := range values(recordKey{TargetMembers, name + "." + a.user}) {
				r, m := decode[RoomRecord](w, rv), decode[MemberRecord](w, mv)
				one.add(r != nil && m != nil && mayRoom(membership{r.Subjects, m.Level}, a, w.wrong))
			}
		}
		t.yes = t.yes || one.yes
		t.no = t.no && one.no
	}
	return t
}
