/*
 * tests/model/fork.pml: a forked child sees its parent's memory at the fork (farmem/fork.c, gate.h, epoch.c).
 *
 * One page of the parent, with UFFDIO_MOVE, and one forked child that reads it at any later moment.
 *
 *   program    first touch, write (near), purge, and a fault when the page is missing
 *   handler    serves faults: zeros, rescue from staging, fetch: FAR -> FETCHING|REMOTE -> NEAR, reference given up
 *   evictor    NEAR -> EVICTING (the page leaves, inside the gate) -> store into a fresh slot -> FAR (inside the gate)
 *              -> staging dropped; repacks: FAR(old) -> FAR(new), outside the gate; reuses slots nobody can read any
 *              more: the bytes there change
 *   forker     pin, close the gate, copy the word, fork (page and staging copied in two steps: F1), open the gate
 *   child      page present in its copy: that; else by the copied word: zeros, its staging, or the slot as it is NOW
 *
 * What must hold: the child's value is what the parent's page meant when the address space was copied.
 */
#define VALUES 3
#define SLOTS 3
#ifndef STEPS
#define STEPS 3
#endif

mtype = { EMPTY, NEAR, EVICTING, FAR, FETCHING, DROPPING };

mtype word = EMPTY;
bool remote;         /* FETCHING: the far copy is the source */
byte slot;           /* of FAR and FETCHING */
bool present;        /* in the program's place */
byte page;           /* its bytes */
bool staged;
byte staging;
bool rescuing; /* somebody copies from staging */
byte slots[SLOTS];
byte owner_of[SLOTS];   /* 0 free, 1 referenced, 2 in limbo */
bool limbo_pinned[SLOTS]; /* retired while a pin was there */
bool fault;
byte truth;          /* ghost: what the program would read */
bool gate_closed;
byte inside;
bool pinned, forked;
byte steps;

/* the child's */
mtype its_word;
byte its_slot;
bool its_present, its_staged;
byte its_page, its_staging, its_truth;

inline enter()
{
#ifndef BUG_NO_GATE
	atomic { !gate_closed -> inside++ }
#else
	inside++
#endif
}
inline leave() { inside-- }
inline retire(s) { d_step { owner_of[s] = 2; limbo_pinned[s] = pinned } }

proctype program()
{
	byte value;
end:	do
	:: atomic {
			steps < STEPS && present && word == NEAR ->
			steps++; value = (value + 1) % VALUES; page = value + 1; truth = page
		}
	:: atomic { steps < STEPS && !present && !fault -> fault = true; steps++ }
	:: steps < STEPS -> /* purge */
		steps++;
		enter();
		if
		:: atomic { word == NEAR -> word = DROPPING }
		:: atomic { word == EVICTING -> word = DROPPING }
		:: atomic { word == FAR -> word = DROPPING; retire(slot) }
		:: atomic { word == EMPTY -> word = DROPPING }
		fi;
		d_step { present = false; page = 0; truth = 0 };
		word = EMPTY;
		leave()
	od
}

proctype handler()
{
	byte bytes, from;
end:	do
	:: fault && word == EMPTY ->
		if
		:: atomic { word == EMPTY -> word = FETCHING; remote = false }
			d_step { present = true; page = 0; fault = false };
			word = NEAR
		:: atomic { word != EMPTY -> skip }
		fi
	:: fault && word == EVICTING ->
		if
		:: atomic { word == EVICTING -> word = FETCHING; remote = false; rescuing = true }
			d_step { present = true; page = staging; fault = false; rescuing = false };
			word = NEAR
		:: atomic { word != EVICTING -> skip }
		fi
	:: fault && word == FAR ->
		if
		:: atomic { word == FAR -> word = FETCHING; remote = true; from = slot }
			bytes = slots[from];
			d_step { present = true; page = bytes; fault = false };
			word = NEAR;
			retire(from)
		:: atomic { word != FAR -> skip }
		fi
	od
}

proctype evictor()
{
	byte old, at;
end:	do
	:: word == NEAR && !staged ->
		enter();
		if
		:: atomic { word == NEAR -> word = FETCHING; remote = false } /* TAKING */
			d_step { staged = true; staging = page; present = false };
			word = EVICTING
		:: atomic { word != NEAR -> skip }
		fi;
		leave()
	:: word == FAR && !staged -> /* repack: no gate, the old place is retired */
		old = slot;
endsame:	if
		:: owner_of[0] == 0 -> at = 0
		:: owner_of[1] == 0 -> at = 1
		:: owner_of[2] == 0 -> at = 2
		:: owner_of[0] == 2 && !limbo_pinned[0] -> at = 0
		:: owner_of[1] == 2 && !limbo_pinned[1] -> at = 1
		:: owner_of[2] == 2 && !limbo_pinned[2] -> at = 2
		fi;
		d_step { owner_of[at] = 1; slots[at] = slots[old] };
		if
		:: atomic { word == FAR && slot == old -> slot = at; retire(old) }
		:: atomic { word != FAR || slot != old -> retire(at) }
		fi
	:: staged ->
		/* A slot that is free, or whose grace period is over: written while the word is EVICTING or not. */
endfull:	if /* none: it waits */
		:: owner_of[0] != 1 && !(owner_of[0] == 2 && limbo_pinned[0]) -> at = 0
		:: owner_of[1] != 1 && !(owner_of[1] == 2 && limbo_pinned[1]) -> at = 1
		:: owner_of[2] != 1 && !(owner_of[2] == 2 && limbo_pinned[2]) -> at = 2
		fi;
		d_step { owner_of[at] = 1; slots[at] = staging };
		enter();
		if
		:: atomic { word == EVICTING -> word = FAR; slot = at }
		:: atomic { word != EVICTING -> retire(at) }
		fi;
		leave();
		atomic { !rescuing -> staged = false; staging = 0 } /* an epoch: span.pml */
	od
}

proctype forker()
{
#ifndef BUG_NO_PIN
#ifndef BUG_PIN_AFTER_COPY
	pinned = true;
#endif
#endif
	gate_closed = true;
#ifndef BUG_NO_GATE
	inside == 0;
#endif
	if /* FETCHING without a network read is waited for */
#ifdef BUG_FETCHING_IS_EMPTY
	:: atomic { word == FETCHING -> its_word = EMPTY }
#else
	:: atomic { word == FETCHING && remote -> its_word = FAR; its_slot = slot }
#endif
	:: atomic { word == DROPPING -> its_word = EMPTY }
	:: atomic { word != FETCHING && word != DROPPING -> its_word = word; its_slot = slot }
	fi;
#ifdef BUG_PIN_AFTER_COPY
	pinned = true;
#endif
#ifdef BUG_OPEN_EARLY
	gate_closed = false;
#endif
	/* The kernel copies one mapping after the other; MOVE between them waits for both (per-VMA locks). */
	atomic {
		its_present = present; its_page = page; its_truth = truth;
		its_staged = staged; its_staging = staging
	}
	forked = true;
	gate_closed = false
}

proctype child()
{
	byte value;
	forked;
	if
	:: its_present -> value = its_page
	:: else ->
		assert(its_word != NEAR);
		if
		:: its_word == EMPTY -> value = 0
		:: its_word == EVICTING -> assert(its_staged); value = its_staging
		:: its_word == FAR -> value = slots[its_slot]
		fi
	fi;
	assert(value == its_truth)
}

init
{
	atomic {
		run program();
		run handler();
		run evictor();
		run forker();
		run child()
	}
}
