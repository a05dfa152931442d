package ecosystem_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"github.com/unibus/unibus/sut/cluster"
)

const rulesFile = "../deploy/alerts/unibus.rules.yml"

// ruleFile is the format of Prometheus's rule files, as far as alerts need it: what is not here is refused.
type ruleFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func readRules(t *testing.T) []rule {
	t.Helper()
	b, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	var f ruleFile
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		t.Fatalf("there is more than one document: %v", err)
	}
	var all []rule
	groups := map[string]bool{}
	for _, g := range f.Groups {
		if g.Name == "" || groups[g.Name] || len(g.Rules) == 0 {
			t.Errorf("the group %q has no name, the name of another, or no rules", g.Name)
		}
		groups[g.Name] = true
		all = append(all, g.Rules...)
	}
	return all
}

// TestRulesAreComplete needs no cluster: the form of every rule, and what a person who is woken up needs to know.
func TestRulesAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range readRules(t) {
		if r.Alert == "" || !strings.HasPrefix(r.Alert, "Unibus") || seen[r.Alert] {
			t.Errorf("%q is no good name for an alert, or is there twice", r.Alert)
		}
		seen[r.Alert] = true
		if _, err := parser.ParseExpr(r.Expr); err != nil {
			t.Errorf("%s: %v", r.Alert, err)
		}
		if r.For != "" {
			if _, err := model.ParseDuration(r.For); err != nil {
				t.Errorf("%s: for: %v", r.Alert, err)
			}
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: the severity is %q", r.Alert, s)
		}
		if len(r.Annotations["summary"]) < 20 || len(r.Annotations["runbook"]) < 60 || len(r.Annotations) != 2 {
			t.Errorf("%s: want a summary and a runbook that says what to do, and nothing else", r.Alert)
		}
		if breakages[r.Alert] == nil {
			t.Errorf("%s: no test makes it fire", r.Alert)
		}
	}
	for name := range breakages {
		if !seen[name] {
			t.Errorf("there is no alert %s any more", name)
		}
	}
}

// known are the names of all series that nodes expose, with the names of their labels.
func known(vectors ...model.Vector) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for _, v := range vectors {
		for _, s := range v {
			name := string(s.Metric[model.MetricNameLabel])
			if all[name] == nil {
				all[name] = map[string]bool{}
			}
			for l := range s.Metric {
				all[name][string(l)] = true
			}
		}
	}
	return all
}

// checkNames refuses an expression over metrics or labels that no node exposes: it would be silent for ever.
func checkNames(t *testing.T, what, expr string, exposed map[string]map[string]bool) {
	t.Helper()
	e, err := parser.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	selectors := 0
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		v, ok := n.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		selectors++
		if exposed[v.Name] == nil {
			t.Errorf("%s: no node exposes %q", what, v.Name)
			return nil
		}
		for _, m := range v.LabelMatchers {
			if !exposed[v.Name][m.Name] {
				t.Errorf("%s: %s has no label %q", what, v.Name, m.Name)
			}
		}
		return nil
	})
	if selectors == 0 {
		t.Errorf("%s: %q looks at no metric", what, expr)
	}
}

// everything scrapes all nodes, after the control API has been used, once every node has heard of every other: a cluster is ready for work before that.
func (b *bus) everything(t *testing.T) []model.Vector {
	t.Helper()
	b.callAPI(t)
	var all []model.Vector
	await(t, "nodes that all know of each other", func() bool {
		all = nil
		whole := true
		for _, n := range b.Nodes() {
			v := samples(t, n)
			all = append(all, v)
			clocks := 0
			for _, s := range v {
				switch s.Metric[model.MetricNameLabel] {
				case "unibus_posture_degraded":
					whole = whole && s.Value == 0
				case "unibus_peer_seen_seconds":
					whole = whole && s.Value >= 0
				case "unibus_clock_ahead_seconds":
					clocks++
				}
			}
			whole = whole && clocks == len(b.Nodes())-1
		}
		return whole
	})
	return all
}

// breakages say, for each alert, how the metrics of a healthy cluster change when its fault is there.
var breakages = map[string]func(recorded){
	"UnibusNoNodeReady":       func(r recorded) { r.with("unibus_ready").set(0) },
	"UnibusQuorumLost":        func(r recorded) { r.with("unibus_quorum_have")[:1].set(1) },
	"UnibusSplitView":         func(r recorded) { r.with("unibus_meta_leader")[:1].label("leader", "n9") },
	"UnibusDegraded":          func(r recorded) { r.with("unibus_posture_degraded")[:1].set(1) },
	"UnibusMixedVersions":     func(r recorded) { r.with("unibus_info")[:1].label("version", "v0.0.1") },
	"UnibusNodeDown":          func(r recorded) { r.with("up")[:1].set(0) },
	"UnibusNodeNotReady":      func(r recorded) { r.with("unibus_ready")[:1].set(0) },
	"UnibusNodeRestarting":    func(r recorded) { r.with("process_start_time_seconds")[0].changes = 3 },
	"UnibusPeerUnseen":        func(r recorded) { r.with("unibus_peer_seen_seconds")[:1].set(-1) },
	"UnibusClocksApart":       func(r recorded) { r.with("unibus_clock_ahead_seconds")[:1].set(-3600) },
	"UnibusJudgementStale":    func(r recorded) { r.with("unibus_judgement_age_seconds")[:1].set(11) },
	"UnibusFileDescriptors":   func(r recorded) { r.with("process_open_fds")[:1].set(r.with("process_max_fds")[0].value * 0.9) },
	"UnibusWritesFail":        func(r recorded) { r.with("unibus_probe_age_seconds")[:1].set(31) },
	"UnibusWritesFlap":        func(r recorded) { r.with("unibus_probe_failures_total")[:1].grow(0.02) },
	"UnibusReplicaNotCurrent": func(r recorded) { r.with("unibus_bucket_current")[:1].set(0) },
	"UnibusReplicasMissing":   func(r recorded) { r.with("unibus_bucket_replicas")[:1].set(1) },
	"UnibusReplicaLag":        func(r recorded) { r.with("unibus_bucket_lag")[:1].set(5000) },
	"UnibusBucketFilling":     func(r recorded) { r.with("unibus_bucket_bytes", "bucket", "UNIBUS_users")[:1].set(90 << 20) },
	"UnibusCatchupSnapshots":  func(r recorded) { r.with("unibus_catchup_snapshots_total")[:1].grow(0.01) },
	"UnibusAPIUnavailable": func(r recorded) {
		r.with("unibus_api_requests_total")[:1].grow(1)
		r.with("unibus_api_requests_total")[:1].label("code", "unavailable")
	},
	"UnibusAPISlow": func(r recorded) {
		r.with("unibus_api_request_seconds_bucket", "le", "2.5").grow(1)
		r.with("unibus_api_request_seconds_bucket", "le", "+Inf").grow(1)
	},
	"UnibusAPIDenied": func(r recorded) {
		r.with("unibus_api_requests_total")[:1].grow(1)
		r.with("unibus_api_requests_total")[:1].label("code", "denied")
	},
	"UnibusUsersNotLoaded":        func(r recorded) { r.with("unibus_users_loaded")[:1].set(0) },
	"UnibusUsersStale":            func(r recorded) { r.with("unibus_users_age_seconds")[:1].set(-1) },
	"UnibusUsersDiffer":           func(r recorded) { r.with("unibus_users_applied_revision")[:1].set(1e6) },
	"UnibusRecordsQuarantined":    func(r recorded) { r.with("unibus_quarantined_records")[:1].set(1) },
	"UnibusNotEnforced":           func(r recorded) { r.with("unibus_enforce")[:1].set(0) },
	"UnibusCertificateExpires":    func(r recorded) { r.with("unibus_tls_not_after_seconds")[:1].set(float64(now.Unix() + 86400)) },
	"UnibusCertificateExpired":    func(r recorded) { r.with("unibus_tls_not_after_seconds")[:1].set(float64(now.Unix() - 1)) },
	"UnibusCertificateNotInForce": func(r recorded) { r.with("unibus_tls_reload_failed")[:1].set(1) },
	"UnibusPlainText":             func(r recorded) { r.with("unibus_tls_enabled")[:1].set(0) },
}

// TestRules: on the real metrics of a healthy cluster every rule is silent, and each fires when its fault is put into them.
func TestRules(t *testing.T) {
	b := converged(t)
	vectors := b.everything(t)
	healthy, exposed := record(vectors...), known(vectors...)
	for _, r := range readRules(t) {
		t.Run(r.Alert, func(t *testing.T) {
			checkNames(t, r.Alert, r.Expr, exposed)
			if v := evaluate(t, r.Expr, healthy); len(v) > 0 {
				t.Errorf("it fires on a healthy cluster: %v", v)
			}
			broken := healthy.clone()
			breakages[r.Alert](broken)
			fired := evaluate(t, r.Expr, broken)
			if len(fired) == 0 {
				t.Fatal("it does not fire on its fault")
			}
			for _, s := range fired {
				for name, text := range r.Annotations {
					expand(t, r.Alert+"/"+name, text, s.Metric, s.F)
				}
			}
		})
	}
}

// expand fills in an annotation as Prometheus does; a label that the expression has lost on the way is an error.
func expand(t *testing.T, what, text string, metric labels.Labels, value float64) {
	t.Helper()
	percentage := func(v float64) string { return model.SampleValue(v*100).String() + "%" }
	duration := func(v float64) string { return time.Duration(v * float64(time.Second)).String() }
	tmpl, err := template.New(what).Option("missingkey=error").Funcs(template.FuncMap{"humanizePercentage": percentage, "humanizeDuration": duration}).
		Parse("{{$labels := .Labels}}{{$value := .Value}}" + text)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	var out strings.Builder
	if err := tmpl.Execute(&out, map[string]any{"Labels": metric.Map(), "Value": value}); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// firing are the names of the alerts whose condition holds now on what the nodes that are up say of themselves.
func (b *bus) firing(t *testing.T, up ...cluster.Node) map[string]bool {
	t.Helper()
	var vectors []model.Vector
	for _, n := range up {
		vectors = append(vectors, samples(t, n))
	}
	r, names := record(vectors...), map[string]bool{}
	for _, one := range readRules(t) {
		if len(evaluate(t, one.Expr, r)) > 0 {
			names[one.Alert] = true
		}
	}
	return names
}

// TestRulesOnALostQuorum freezes two nodes for real and looks at what the third one exposes.
func TestRulesOnALostQuorum(t *testing.T) {
	b := converged(t)
	alone, frozen := b.Nodes()[0], b.Nodes()[1:]
	for _, n := range frozen {
		defer func() {
			if err := n.Signal(t.Context(), syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}()
		if err := n.Signal(t.Context(), syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	wanted := []string{"UnibusQuorumLost", "UnibusNoNodeReady", "UnibusNodeNotReady", "UnibusDegraded", "UnibusPeerUnseen"}
	await(t, strings.Join(wanted, ", "), func() bool {
		names := b.firing(t, alone)
		for _, w := range wanted {
			if !names[w] {
				return false
			}
		}
		return true
	})
}
