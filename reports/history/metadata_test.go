package history_test

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/unibus/unibus/reports/history"
)

func TestMetadata(t *testing.T) {
	m := history.Metadata{Target: "ORDERS", Status: history.StreamFound, Created: "2024-05-01T10:00:00.5Z", Config: "{}", Replicas: 3, Leader: "n1", First: 1, Last: 1 << 40, Msgs: 7,
		Healthz: map[string]int{"n1": 200, "n2": 0}, Err: "x"}
	e := history.MetadataEvent("after", m)
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	var back history.Event
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	for _, ev := range []history.Event{e, back} {
		if got, ok := ev.Metadata(); !ok || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v, %t, want %+v", got, ok, m)
		}
	}
	for name, e := range map[string]history.Event{
		"another kind":  {Kind: "note", Data: map[string]any{"target": "ORDERS"}},
		"no data":       {Kind: "metadata"},
		"unknown field": {Kind: "metadata", Data: map[string]any{"target": "ORDERS", "surprise": 1}},
		"wrong type":    {Kind: "metadata", Data: map[string]any{"target": 1}},
	} {
		if _, ok := e.Metadata(); ok {
			t.Errorf("%s: read as a description", name)
		}
	}
}
