package ecosystem_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

const dashboardFile = "../deploy/grafana/unibus.json"

// dashboard is the part of Grafana's model that decides what is drawn.
type dashboard struct {
	UID           string `json:"uid"`
	Title         string `json:"title"`
	SchemaVersion int    `json:"schemaVersion"`
	Templating    struct {
		List []struct {
			Name       string `json:"name"`
			Type       string `json:"type"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
	Annotations struct {
		List []struct {
			Expr string `json:"expr"`
		} `json:"list"`
	} `json:"annotations"`
	Panels []panel `json:"panels"`
}

type panel struct {
	ID         int    `json:"id"`
	Type       string `json:"type"`
	Title      string `json:"title"`
	Datasource source `json:"datasource"`
	GridPos    grid   `json:"gridPos"`
	Targets    []struct {
		RefID      string `json:"refId"`
		Expr       string `json:"expr"`
		Legend     string `json:"legendFormat"`
		Datasource source `json:"datasource"`
	} `json:"targets"`
}

type source struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type grid struct{ X, Y, W, H int }

func (g grid) overlaps(o grid) bool {
	return g.X < o.X+o.W && o.X < g.X+g.W && g.Y < o.Y+o.H && o.Y < g.Y+g.H
}

func readDashboard(t *testing.T) dashboard {
	t.Helper()
	b, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboardIsComplete needs no cluster: the form of the file.
func TestDashboardIsComplete(t *testing.T) {
	d := readDashboard(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 || len(d.Panels) < 20 {
		t.Errorf("%s %q, schema %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	for i, p := range d.Panels {
		if p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%q is outside the grid", p.Title)
		}
		for _, o := range d.Panels[:i] {
			if o.ID == p.ID || o.GridPos.overlaps(p.GridPos) {
				t.Errorf("%q and %q have the same id or the same place", o.Title, p.Title)
			}
		}
		if p.Type != "row" && (p.Title == "" || len(p.Targets) == 0) {
			t.Errorf("panel %d has no title or shows nothing", p.ID)
		}
		for _, q := range p.Targets {
			want := source{Type: "prometheus", UID: "${datasource}"}
			if q.RefID == "" || q.Datasource != want || p.Datasource != want {
				t.Errorf("%q: a query without id, or on another data source than the chosen one", p.Title)
			}
		}
	}
}

// filled puts in what Grafana puts in for its variables.
func filled(expr string) string {
	return strings.NewReplacer("$__rate_interval", "1m", "$__interval", "15s", "$job", ".+", "$instance", ".+").Replace(expr)
}

// TestDashboardShowsRealMetrics: every query parses, is about metrics that nodes expose, and has something to show of a healthy cluster, except
// for those that count what is wrong.
func TestDashboardShowsRealMetrics(t *testing.T) {
	b := converged(t)
	vectors := b.everything(t)
	healthy, exposed := record(vectors...), known(vectors...)
	d := readDashboard(t)
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			expr := filled(q.Expr)
			checkNames(t, p.Title, expr, exposed)
			v := evaluate(t, expr, healthy)
			if len(v) == 0 {
				t.Errorf("%q shows nothing: %s", p.Title, expr)
				continue
			}
			for _, part := range strings.Split(q.Legend, "{{")[1:] {
				name, _, _ := strings.Cut(part, "}}")
				if !v[0].Metric.Has(name) {
					t.Errorf("%q: the legend wants the label %q, which the query does not return", p.Title, name)
				}
			}
		}
	}
	for _, a := range d.Annotations.List {
		checkNames(t, "annotation", filled(a.Expr), exposed)
	}
	for _, v := range d.Templating.List {
		if arg, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			selector, label, _ := strings.Cut(strings.TrimSuffix(arg, ")"), ", ")
			checkNames(t, "variable "+v.Name, filled(selector), exposed)
			if label != "job" && label != "instance" {
				t.Errorf("variable %s: no label %q", v.Name, label)
			}
		}
	}
}
