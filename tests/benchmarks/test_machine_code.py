"""Instructions by loop, from machine code."""

import pytest

from benchmarks.machine_code import Instructions, count, issue_milliseconds, spilled_bytes

# a loop with another one in it, a later loop, and the jump to itself at the end of every kernel
CODE = """
\t.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   S2R R0, SR_CTAID.X ;
.L_x_1:
        /*0020*/                   LDG.E R2, [R4.64] ;
.L_x_0:
        /*0030*/                   FFMA R2, R2, R3, R6 ;
        /*0040*/                   FADD R6, R6, R2 ;
        /*0050*/              @P0  BRA `(.L_x_0) ;
        /*0060*/                   STG.E [R4.64], R6 ;
        /*0070*/              @P1  BRA `(.L_x_1) ;
.L_x_2:
        /*0080*/                   IADD3 R0, R0, 0x1, RZ ;
        /*0090*/                   IADD3 R1, R1, 0x1, RZ ;
        /*00a0*/                   IADD3 R2, R2, 0x1, RZ ;
        /*00b0*/                   IADD3 R3, R3, 0x1, RZ ;
        /*00c0*/              @P2  BRA `(.L_x_2) ;
        /*00d0*/                   EXIT ;
.L_x_3:
        /*00e0*/                   BRA `(.L_x_3);
        /*00f0*/                   NOP;
"""


def test_instructions_are_counted_by_loop() -> None:
    assert count(CODE) == Instructions(outside=4, outer=3, inner=3, other=5)
    assert count("") == Instructions(0, 0, 0, 0)


def test_executed_instructions_follow_the_iterations() -> None:
    assert count(CODE).executed((10, 4)) == 4 + 3 * 10 + 3 * 10 * 4 + 5 * 4
    assert Instructions(5, 0, 7, 0).executed((3,)) == 5 + 7 * 3


def test_time_of_a_launch() -> None:
    # each of 132 * 4 schedulers issues one instruction per clock
    assert issue_milliseconds(1755, 4, 132) == pytest.approx(1e-3)


def test_spills_are_loads_and_stores_of_local_memory() -> None:
    assert spilled_bytes("STL [R1], R2 ; LDL.LU R2, [R1] ; @P0 STL.64 [R1+0x8], R4 ; LDL.128 R4, [R1+0x10] ;") == 32
    assert spilled_bytes("LDG.E.128 R4, desc[UR4][R2.64] ; LDSM.16.M88.4 R4, [R6] ;") == 0
