package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kigo/kernels"
)

// What nvdisasm prints, reduced to what counts.
const oneStage = `
.text.k:
        /*0000*/                   LDG.E.128 R40, desc[UR4][R2.64] ;
        /*0010*/                   HGMMA.64x64x16.F32 R8, R40, gdesc[UR4], R8, gsb0 ;
`

func TestOverwritten(t *testing.T) {
	for name, c := range map[string]struct {
		code string
		want []string // addresses
	}{
		"waited for": {code: oneStage + `
        /*0020*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0030*/                   MOV R41, R1 ;`},
		"not waited for": {code: oneStage + `
        /*0020*/                   MOV R41, R1 ;`, want: []string{"0020"}},
		"one of two waited for": {code: oneStage + `
        /*0020*/                   HGMMA.64x64x16.F32 R8, R44, gdesc[UR4], R8, gsb0 ;
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0040*/                   MOV R40, R1 ;
        /*0050*/                   MOV R47, R1 ;`, want: []string{"0050"}},
		"no group yet": {code: `
.text.k:
        /*0000*/                   HGMMA.64x64x16.F32 R8, R40, gdesc[UR4], R8 ;
        /*0010*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0020*/                   IMAD.MOV.U32 R43, RZ, RZ, R1 ;`, want: []string{"0020"}},
		"wide writes": {code: oneStage + `
        /*0020*/              @!P1 LDS.128 R36, [R1] ;
        /*0030*/               @P1 LDS.128 R37, [R1] ;
        /*0040*/                   LDS.64 R39, [R1] ;
        /*0050*/                   IMAD.WIDE.U32 R39, R1, R2, R4 ;
        /*0060*/                   SHF.R.U64 R39, R1, 0x4, R2 ;`, want: []string{"0030", "0040", "0050"}},
		"reads": {code: oneStage + `
        /*0020*/                   STS.128 [R1], R40 ;
        /*0030*/                   ISETP.GE.U32.AND P0, PT, R40, R41, PT ;
        /*0040*/                   R2UR UR4, R40 ;
        /*0050*/                   MOV R1, R40 ;`},
		"either way": {code: oneStage + `
        /*0020*/              @!P0 BRA ` + "`(.L_x_1)" + ` ;
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
.L_x_1:
        /*0040*/                   MOV R40, R1 ;`, want: []string{"0040"}},
		"a branch with modifiers": {code: oneStage + `
        /*0020*/                   BRA.DIV ~URZ, ` + "`(.L_x_1)" + ` ;
        /*0030*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0040*/                   EXIT ;
.L_x_1:
        /*0050*/                   MOV R40, R1 ;`, want: []string{"0050"}},
		"a call": {code: oneStage + `
        /*0020*/                   CALL.REL.NOINC ` + "`($somewhere)" + ` ;`, want: []string{"0020"}},
		"too many groups": {code: oneStage + strings.Repeat(`
        /*0020*/                   HGMMA.64x64x16.F32 R8, R40, gdesc[UR4], R8, gsb0 ;`, mostPending), want: []string{"0020"}},
		"round a loop": {code: `
.text.k:
.L_x_1:
        /*0000*/                   MOV R40, R1 ;
        /*0010*/                   HGMMA.64x64x16.F32 R8, R40, gdesc[UR4], R8, gsb0 ;
        /*0018*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0020*/               @P0 BRA ` + "`(.L_x_1)" + ` ;
        /*0030*/                   EXIT ;`, want: []string{"0000"}},
		"a turn cut short ends the loop": {code: `
.text.k:
.L_x_1:
        /*0000*/                   LDS.128 R44, [R1] ;
        /*0010*/                   HGMMA.64x64x16.F32 R8, R40, gdesc[UR4], R8, gsb0 ;
        /*0020*/                   WARPGROUP.DEPBAR.LE gsb0, 0x1 ;
        /*0030*/               @P1 BRA ` + "`(.L_x_2)" + ` ;
        /*0040*/                   LDS.128 R40, [R1] ;
        /*0050*/                   HGMMA.64x64x16.F32 R8, R44, gdesc[UR4], R8, gsb0 ;
        /*0060*/                   WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
.L_x_2:
        /*0070*/               @P0 BRA ` + "`(.L_x_1)" + ` ;
        /*0080*/                   EXIT ;`, want: []string{"0040"}},
	} {
		t.Run(name, func(t *testing.T) {
			kernels, err := kernelsOf(c.code)
			if err != nil || len(kernels) != 1 {
				t.Fatal(len(kernels), err)
			}
			var got []string
			for _, h := range overwritten(kernels["k"]) {
				address, _, _ := strings.Cut(h, ":")
				got = append(got, address)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
	if _, err := kernelsOf(".text.k:\n /*0000*/ BRA `(.L_x_9) ;\n"); err == nil {
		t.Error("a label that is not there")
	}
}

// No kernel of the committed machine code writes to what its wgmmas may still read.
func TestOperandsAreKept(t *testing.T) {
	nvdisasm := filepath.Join("..", "..", ".build", "nvdisasm", "bin", "nvdisasm")
	if _, err := os.Stat(nvdisasm); err != nil {
		t.Skip("the disassembler is not installed: make check-kernels does it")
	}
	wgmmas := 0
	for _, family := range kernels.Families() {
		image, target, err := kernels.Image(family, 9, 0)
		if err != nil || target != "sm_90a" {
			t.Fatalf("%s: %s, %v", family, target, err)
		}
		file := filepath.Join(t.TempDir(), family+".cubin")
		if err := os.WriteFile(file, image, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), nvdisasm, "-c", file).Output()
		if err != nil {
			t.Fatalf("%s: nvdisasm: %v", family, err)
		}
		all, err := kernelsOf(string(out))
		if err != nil {
			t.Fatal(err)
		}
		for name, code := range all {
			here := 0
			for i := range code {
				if code[i].name == "HGMMA" {
					here++
				}
			}
			if here == 0 {
				continue
			}
			wgmmas += here
			if hits := overwritten(code); len(hits) > 0 {
				t.Errorf("%s overwrites operands of wgmma that may be under way:\n%s", name, strings.Join(hits, "\n"))
			}
		}
	}
	if wgmmas == 0 {
		t.Error("there is no wgmma: has the disassembly another form?")
	}
}
