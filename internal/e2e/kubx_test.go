package e2e

import (
	"context"
	"os"
	"testing"
)

func TestKubx(t *testing.T) {
	out := os.Getenv("KUBX")
	if out == "" {
		t.Skip()
	}
	bin := os.Getenv("KEG_E2E_BIN")
	for _, v := range []string{kubeBefore, kubeVersion} {
		if err := baseContextOf(context.Background(), out+"/base-"+v, bin, v); err != nil {
			t.Fatal(err)
		}
		if err := shopContext(context.Background(), out+"/shop-"+v, bin, "registry.keg.test/kubernetes:"+v); err != nil {
			t.Fatal(err)
		}
	}
}
