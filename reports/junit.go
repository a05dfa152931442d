package reports

import (
	"encoding/xml"
	"fmt"

	"github.com/unibus/unibus/reports/check"
)

type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"`
	Timestamp  string          `xml:"timestamp,attr"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
	Out        string          `xml:"system-out,omitempty"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Name      string      `xml:"name,attr"`
	ClassName string      `xml:"classname,attr"`
	Failure   *junitFault `xml:"failure"`
	Error     *junitFault `xml:"error"`
	Skipped   *junitFault `xml:"skipped"`
	Out       string      `xml:"system-out,omitempty"`
}

type junitFault struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// junitXML is the proof as one JUnit suite: a case per claim and control. Inconclusive is an error and never a pass.
func junitXML(p Proof) ([]byte, error) {
	ev := p.Evidence
	s := junitSuite{
		Name: title(ev), Time: fmt.Sprintf("%.3f", ev.Seconds), Timestamp: ev.Started.UTC().Format("2006-01-02T15:04:05"),
		Properties: []junitProperty{
			{"status", string(p.Status)}, {"seed", fmt.Sprint(ev.Seed)}, {"command", ev.Command}, {"backend", ev.Env.Backend},
			{"subject", ev.Subject.Kind + " " + ev.Subject.Version}, {"subject.digest", ev.Subject.Digest}, {"evidence.digest", p.EvidenceDigest},
		},
		Out: p.Why,
	}
	s.Cases = junitCases(p)
	for _, c := range s.Cases {
		s.Tests++
		switch {
		case c.Failure != nil:
			s.Failures++
		case c.Error != nil:
			s.Errors++
		case c.Skipped != nil:
			s.Skipped++
		}
	}
	b, err := xml.MarshalIndent(junitSuites{Suites: []junitSuite{s}}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode junit: %w", err)
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

func junitCases(p Proof) []junitCase {
	class := title(p.Evidence)
	var cs []junitCase
	for _, j := range p.Claims {
		cs = append(cs, junitClaim(class, p.Evidence.NotRun, j))
	}
	for _, c := range p.Controls {
		cs = append(cs, junitControl(class, c))
	}
	if p.Evidence.NotRun != "" && len(cs) == 0 {
		cs = append(cs, junitCase{Name: "run", ClassName: class, Skipped: &junitFault{Message: p.Evidence.NotRun}})
	}
	for i, e := range p.Evidence.Errors {
		cs = append(cs, junitCase{Name: fmt.Sprintf("harness %d", i+1), ClassName: class, Error: &junitFault{Message: e, Type: "harness"}})
	}
	if p.Status == StatusInconclusive && len(cs) == 0 {
		cs = append(cs, junitCase{Name: "run", ClassName: class, Error: &junitFault{Message: p.Why}})
	}
	return cs
}

func junitClaim(class, notRun string, j Judged) junitCase {
	c := junitCase{Name: j.Claim.ID, ClassName: class, Out: j.Claim.Text}
	f := &junitFault{Message: j.Result.Reason, Type: j.Result.Code, Text: witnessText(j)}
	switch {
	case notRun != "":
		c.Skipped = &junitFault{Message: notRun}
	case j.Satisfied:
		c.Out += "\n" + j.Result.Reason
	case j.Claim.Control():
		f.Message = "The control did not fire: " + f.Message
		c.Error = f
	case j.Result.Verdict == check.Fail:
		c.Failure = f
	default:
		c.Error = f
	}
	return c
}

func witnessText(j Judged) string {
	text := ""
	if j.Result.Promise != "" {
		text += "\nPromise: " + j.Result.Promise
	}
	for _, w := range j.Result.Witnesses {
		text += "\n" + stamp(w.At) + " " + w.Text
	}
	return text
}

func junitControl(class string, c ControlRun) junitCase {
	t := junitCase{Name: "control " + c.Name + " of " + c.Claim, ClassName: class, Out: c.Note}
	switch {
	case c.Skipped:
		t.Skipped = &junitFault{Message: c.Note}
	case !c.Fired:
		t.Error = &junitFault{Message: "The control did not fire: wanted " + c.Want + ", got " + verdictWithCode(c.Got, c.Code), Type: c.Code}
	}
	return t
}

// title is the scenario with its variant.
func title(ev Evidence) string {
	if ev.Variant == "" {
		return ev.Scenario
	}
	return ev.Scenario + " on " + ev.Variant
}
