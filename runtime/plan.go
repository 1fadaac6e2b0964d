package runtime

// Plan is what a run would do, for people and for machines.
type Plan struct {
	Cluster string      `json:"cluster"`
	Image   string      `json:"image"`
	Digest  string      `json:"digest"`
	Runtime string      `json:"runtime"`
	Nodes   []PlanNode  `json:"nodes"`
	Phases  []PlanPhase `json:"phases"`
}

// PlanNode is a host of the plan.
type PlanNode struct {
	Host string `json:"host"`
	Role Role   `json:"role"`
}

// PlanPhase is a phase with its steps.
type PlanPhase struct {
	Title string `json:"title"`
	Steps []Step `json:"steps"`
}

// NewPlan makes the plan of phases without a connection to any host. It fails as the run would where
// what was asked for makes no sense (*PreflightError).
func NewPlan(c *Cluster, phases []Phase) (Plan, error) {
	if err := c.check(); err != nil {
		return Plan{}, err
	}
	p := Plan{Cluster: c.Name, Nodes: []PlanNode{}, Phases: []PlanPhase{}}
	if c.Image != nil {
		p.Image, p.Digest = c.Image.Name, c.Image.Target.Digest.String()
	}
	if c.Driver != nil {
		p.Runtime = c.Driver.Name()
	}
	for _, n := range c.Nodes {
		p.Nodes = append(p.Nodes, PlanNode{Host: n.Address.String(), Role: n.Role})
	}
	for _, ph := range phases {
		if skipped(c, ph) {
			continue
		}
		pp := PlanPhase{Title: ph.Title(), Steps: []Step{}}
		if pl, ok := ph.(planner); ok {
			pp.Steps = append(pp.Steps, pl.Plan(c)...)
		}
		p.Phases = append(p.Phases, pp)
	}
	return p, nil
}
