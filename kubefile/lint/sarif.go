package lint

import (
	"net/url"
	"path/filepath"
	"strings"
)

// SARIF is a report in the Static Analysis Results Interchange Format, version 2.1.0 (OASIS), for JSON.
type SARIF struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []SARIFRun `json:"runs"`
}

// SARIFRun is one run of the tool (§3.14).
type SARIFRun struct {
	Tool struct {
		Driver SARIFDriver `json:"driver"`
	} `json:"tool"`
	Results []SARIFResult `json:"results"`
}

// SARIFDriver is the tool itself (§3.19).
type SARIFDriver struct {
	Name           string      `json:"name"`
	Version        string      `json:"version,omitempty"`
	InformationURI string      `json:"informationUri"`
	Rules          []SARIFRule `json:"rules"`
}

// SARIFMessage is a text (§3.11).
type SARIFMessage struct {
	Text string `json:"text"`
}

// SARIFRule describes a rule (§3.49).
type SARIFRule struct {
	ID                   string       `json:"id"`
	ShortDescription     SARIFMessage `json:"shortDescription"`
	Help                 SARIFMessage `json:"help"`
	HelpURI              string       `json:"helpUri,omitempty"`
	DefaultConfiguration struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

// SARIFResult is a finding (§3.27).
type SARIFResult struct {
	RuleID    string          `json:"ruleId"`
	RuleIndex int             `json:"ruleIndex"`
	Level     string          `json:"level"`
	Message   SARIFMessage    `json:"message"`
	Locations []SARIFLocation `json:"locations"`
}

// SARIFLocation is where it is (§3.28).
type SARIFLocation struct {
	PhysicalLocation SARIFPlace `json:"physicalLocation"`
}

// SARIFPlace is a place in a file (§3.29).
type SARIFPlace struct {
	ArtifactLocation struct {
		URI string `json:"uri"`
	} `json:"artifactLocation"`
	Region *SARIFRegion `json:"region,omitempty"`
}

// SARIFRegion is lines of a file, from 1 (§3.30).
type SARIFRegion struct {
	StartLine int `json:"startLine"`
	EndLine   int `json:"endLine,omitempty"`
}

// level is a severity in the words of SARIF (§3.27.10).
func level(s Severity) string {
	switch s {
	case Error:
		return "error"
	case Info:
		return "note"
	}
	return "warning"
}

// Report makes a SARIF report of findings. version is that of keg.
func Report(version string, list []Finding) SARIF {
	run := SARIFRun{Results: []SARIFResult{}}
	d := &run.Tool.Driver
	d.Name, d.Version, d.InformationURI = "keg lint", version, strings.TrimSuffix(page, "#")
	index := map[string]int{}
	add := func(r Rule) {
		index[r.Name] = len(d.Rules)
		one := SARIFRule{ID: r.Name, ShortDescription: SARIFMessage{r.Description}, Help: SARIFMessage{r.Cure}, HelpURI: r.URL}
		if r.Description == "" {
			one.ShortDescription.Text = r.Name
		}
		if r.Cure == "" {
			one.Help.Text = one.ShortDescription.Text
		}
		one.DefaultConfiguration.Level = level(r.Severity)
		d.Rules = append(d.Rules, one)
	}
	for _, r := range all {
		add(r)
	}
	for _, f := range list {
		if _, ok := index[f.Rule]; !ok {
			add(*ruleOf(f.Rule, f.URL))
		}
		text := f.Text
		if f.Cure != "" {
			text += "\n" + f.Cure
		}
		res := SARIFResult{RuleID: f.Rule, RuleIndex: index[f.Rule], Level: level(f.Severity), Message: SARIFMessage{text}}
		var place SARIFPlace
		place.ArtifactLocation.URI = (&url.URL{Path: filepath.ToSlash(f.File)}).String()
		if f.Line > 0 {
			place.Region = &SARIFRegion{StartLine: f.Line, EndLine: max(f.EndLine, f.Line)}
		}
		res.Locations = []SARIFLocation{{place}}
		run.Results = append(run.Results, res)
	}
	return SARIF{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []SARIFRun{run}}
}
