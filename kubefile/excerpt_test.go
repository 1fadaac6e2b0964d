package kubefile

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExcerpt(t *testing.T) {
	f := parse(t, "# escape=`\nARG X\nFROM scratch\nARG A=1\nENV B=2\nAPP shop x\nRUN one `\n  # note\n  two\nLAUNCH shop\nARG C=\"a b\" D\nRUN <<EOF\nthree\nEOF\nCOPY a b\n")
	var list []*Docker
	for _, i := range []int{3, 5, 6} {
		d, ok := f.Stages[0].Instructions[i].(*Docker)
		if !ok {
			t.Fatalf("instruction %d is %T", i, f.Stages[0].Instructions[i])
		}
		list = append(list, d)
	}
	got := string(Excerpt("base", []string{"A", "Z"}, list))
	want := "# escape=`\nFROM base\nARG A Z\n\n\n\nRUN one `\n  # note\n  two\n\nARG C D\nRUN <<EOF\nthree\nEOF\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if Excerpt("base", nil, nil) != nil {
		t.Error("an excerpt of nothing")
	}
}
