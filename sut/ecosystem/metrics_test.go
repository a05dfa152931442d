package ecosystem_test

import (
	"bytes"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/unibus/unibus/sut/cluster"
)

// job is what the scrape configuration would call the cluster.
const job = "unibus"

func metricsURL(n cluster.Node) string {
	return strings.TrimSuffix(n.Endpoints().Live, "/livez") + "/metrics"
}

// scrape reads what a node exposes as Prometheus does, strictly.
func scrape(t *testing.T, n cluster.Node) map[string]*dto.MetricFamily {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(get(t, metricsURL(n))))
	if err != nil {
		t.Fatalf("%s: %v", n.ID(), err)
	}
	return families
}

// instance is what Prometheus calls a node: the address that it scrapes.
func instance(t *testing.T, n cluster.Node) string {
	t.Helper()
	u, err := url.Parse(n.Endpoints().Live)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// samples are a scrape's series as the rules see them, with the labels that Prometheus adds and the series that it makes itself.
func samples(t *testing.T, n cluster.Node) model.Vector {
	t.Helper()
	var families []*dto.MetricFamily
	for _, f := range scrape(t, n) {
		families = append(families, f)
	}
	v, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, families...)
	if err != nil {
		t.Fatal(err)
	}
	v = append(v, &model.Sample{Metric: model.Metric{model.MetricNameLabel: "up"}, Value: 1})
	for _, s := range v {
		s.Metric["job"], s.Metric["instance"] = job, model.LabelValue(instance(t, n))
	}
	return v
}

// TestMetricsAreStrict: what promtool check metrics would say of every node, and what it does not ask.
func TestMetricsAreStrict(t *testing.T) {
	b := converged(t)
	b.callAPI(t)
	for i, n := range b.Nodes() {
		problems, err := promlint.New(bytes.NewReader(get(t, metricsURL(n)))).Lint()
		if err != nil {
			t.Fatalf("%s: %v", n.ID(), err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", n.ID(), p.Metric, p.Text)
		}
		families := scrape(t, n)
		for name, f := range families {
			if f.GetHelp() == "" || f.GetType() == dto.MetricType_UNTYPED || len(f.GetMetric()) == 0 {
				t.Errorf("%s: %s has no help, no type or no series", n.ID(), name)
			}
		}
		for _, want := range []string{"unibus_ready", "unibus_info", "go_goroutines", "process_open_fds"} {
			if families[want] == nil {
				t.Errorf("%s does not expose %s", n.ID(), want)
			}
		}
		if i == 0 && !slices.ContainsFunc(families["unibus_info"].GetMetric()[0].GetLabel(),
			func(l *dto.LabelPair) bool { return l.GetName() == "node" && l.GetValue() == string(n.ID()) }) {
			t.Errorf("unibus_info of %s names another node: %v", n.ID(), families["unibus_info"])
		}
	}
}
