package registrytest

import (
	"net/http"
	"testing"
)

func status(t *testing.T, url, user, password string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestStart(t *testing.T) {
	seen := 0
	addr := Start(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen++
			next.ServeHTTP(w, r)
		})
	})
	if got := status(t, "http://"+addr+"/v2/", "", ""); got != http.StatusOK || seen != 1 {
		t.Errorf("status %d, wrapper saw %d requests", got, seen)
	}
}

func TestStartReal(t *testing.T) {
	addr := StartReal(t)
	if got := status(t, "http://"+addr+"/v2/_catalog", "", ""); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
}

func TestStartRealWithUser(t *testing.T) {
	addr := StartReal(t, WithUser("ada", "secret"))
	for _, tt := range []struct {
		user, password string
		want           int
	}{
		{"", "", http.StatusUnauthorized},
		{"ada", "wrong", http.StatusUnauthorized},
		{"ada", "secret", http.StatusOK},
	} {
		if got := status(t, "http://"+addr+"/v2/", tt.user, tt.password); got != tt.want {
			t.Errorf("%q:%q: status %d, want %d", tt.user, tt.password, got, tt.want)
		}
	}
}
