# make          builds build/triggerflow-supervisor, build/triggerflow-worker and build/triggerflow
# make demo     a workflow of 1,000 functions whose worker is killed half-way
# make check    runs every test
# make install  installs what is built (PREFIX=/usr/local, DESTDIR=)
# What is needed is installed first (Debian packages). The rest: make help
.DEFAULT_GOAL := all
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc) --no-print-directory
endif

VERSION := 0.1.0
# SAN=asan|tsan: sanitizer builds, with named crash points compiled in; SAN=crash: only the latter; SAN=fuzz: by
# clang, for the fuzz targets; SAN=lint: the plain build with -Werror. Each has a build folder of its own.
SAN ?=
BUILD := build$(if $(SAN),/$(SAN))
WERROR ?=
V ?=
# Seconds that each fuzz target runs
SECONDS := 30

PACKAGES_build := gcc libc6-dev make pkg-config libmicrohttpd-dev libyaml-dev libjson-c-dev libcurl4-openssl-dev \
                  libhiredis-dev libxxhash-dev libssl-dev libsqlite3-dev librdkafka-dev librabbitmq-dev
PACKAGES_test := libcmocka-dev libfaketime redis-server redis-tools openssl python3 default-jre-headless maven \
                 rabbitmq-server python3-venv nghttp2-server busybox-static
PACKAGES_bench := redis-server redis-tools wrk rabbitmq-server
PACKAGES_lint := clang-format clang-tidy
PACKAGES_fuzz := clang libclang-rt-14-dev

CC := $(if $(filter fuzz,$(SAN)),clang,gcc)
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual \
            -Wwrite-strings -Wundef -Wformat=2 -Wvla -Wimplicit-fallthrough
ifeq ($(SAN),fuzz)
WARNINGS := -w
endif
OPTIMISE := -O2 -D_FORTIFY_SOURCE=2
SANITIZE_asan := -O1 -DCRASH_POINTS -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANITIZE_tsan := -O1 -DCRASH_POINTS -fsanitize=thread
SANITIZE_fuzz := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined \
                 -fno-omit-frame-pointer
SANITIZE_crash := $(OPTIMISE) -DCRASH_POINTS
SANITIZE_lint := $(OPTIMISE)
FLAGS := $(if $(SAN),$(SANITIZE_$(SAN)),$(OPTIMISE))
DEFINES := -std=gnu17 -I. -D_GNU_SOURCE -DVERSION=\"$(VERSION)\"
CFLAGS += -g $(FLAGS) $(WARNINGS) $(if $(WERROR),-Werror) -fno-common -fstack-protector-strong -fPIE \
          -pthread $(DEFINES) -MMD -MP
LDFLAGS += -pie -Wl,-z,relro,-z,now -pthread $(filter -fsanitize%,$(FLAGS))
EXTRA := $(if $(filter asan,$(SAN)),$(BUILD)/.ci/ubsan.o) $(if $(filter tsan,$(SAN)),$(BUILD)/.ci/tsan.o)
LDLIBS := -lrdkafka -lrabbitmq -lsqlite3 -lhiredis -lssl -lcrypto -lyaml -ljson-c -lmicrohttpd -lcurl
LDLIBS += -lm

objects = $(patsubst %.c,$(BUILD)/%.o,$(1))
programs = $(patsubst %.c,$(BUILD)/%,$(wildcard $(1)))
COMMON := $(call objects,$(wildcard common/*.c common/storage/*.c))
WORKER := $(call objects,$(filter-out worker/main.c,$(wildcard worker/*.c worker/*/*.c)))
SUPERVISOR := $(call objects,$(filter-out supervisor/main.c,$(wildcard supervisor/*.c)))
CLI := $(call objects,$(filter-out cli/main.c,$(wildcard cli/*.c)))
SUPPORT := $(call objects,$(wildcard tests/support/*.c))
PROGRAMS := $(BUILD)/triggerflow-supervisor $(BUILD)/triggerflow-worker $(BUILD)/triggerflow
UNIT_TESTS := $(call programs,tests/test_*.c)
INTEGRATION_TESTS := $(call programs,tests/integration/test_*.c)
TESTS := $(UNIT_TESTS) $(INTEGRATION_TESTS)
BENCHES := $(call programs,bench/bench_*.c)
FUZZERS := $(call programs,tests/fuzz/fuzz_*.c)
SOURCES := $(wildcard common/*.[ch] common/*/*.[ch] worker/*.[ch] worker/*/*.[ch] supervisor/*.[ch] cli/*.[ch] \
             tests/*.[ch] tests/*/*.[ch] bench/*.[ch])

.PHONY: all programs tests benches fuzzers demo check check-asan check-tsan lint fuzz bench format clean help \
        install install-strip uninstall \
        lint-format lint-warnings lint-tidy crash-programs
.SECONDARY:
all: programs
programs: $(PROGRAMS)
tests: $(TESTS)
benches: $(BENCHES)
fuzzers: $(FUZZERS)

# Compiling and linking. Nothing is compiled before its packages are installed.
$(COMMON) $(WORKER) $(SUPERVISOR) $(CLI) $(BUILD)/cli/main.o $(PROGRAMS:$(BUILD)/triggerflow-%=$(BUILD)/%/main.o): | build/packages.build
$(TESTS:=.o) $(SUPPORT): | build/packages.build build/packages.test
$(BENCHES:=.o): | build/packages.build build/packages.bench
ifeq ($(SAN),fuzz)
$(COMMON) $(WORKER) $(SUPERVISOR) $(CLI) $(FUZZERS:=.o): | build/packages.build build/packages.fuzz
endif
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(if $(V),,@echo "  CC    $@"; )$(CC) $(CFLAGS) -c $< -o $@
$(BUILD)/supervisor/openapi.o: supervisor/openapi.json
$(BUILD)/libcommon.a: $(COMMON)
$(BUILD)/libworker.a: $(WORKER)
$(BUILD)/libsupervisor.a: $(SUPERVISOR)
$(BUILD)/libcli.a: $(CLI)
$(BUILD)/libsupport.a: $(SUPPORT)
$(BUILD)/%.a:
	@rm -f $@
	$(if $(V),,@)$(AR) rcs $@ $^
$(BUILD)/triggerflow-supervisor: $(BUILD)/supervisor/main.o $(BUILD)/libsupervisor.a $(BUILD)/libcommon.a
$(BUILD)/triggerflow-worker: $(BUILD)/worker/main.o $(BUILD)/libworker.a $(BUILD)/libcommon.a
$(BUILD)/triggerflow: $(BUILD)/cli/main.o $(BUILD)/libcli.a $(BUILD)/libcommon.a
$(TESTS) $(BENCHES): %: %.o $(BUILD)/libsupport.a $(BUILD)/libworker.a $(BUILD)/libsupervisor.a $(BUILD)/libcli.a \
    $(BUILD)/libcommon.a
$(FUZZERS): %: %.o $(BUILD)/libworker.a $(BUILD)/libsupervisor.a $(BUILD)/libcli.a $(BUILD)/libcommon.a
$(TESTS): LDLIBS += -lcmocka
$(FUZZERS): LDFLAGS += -fsanitize=fuzzer
$(EXTRA): | build/packages.build
$(PROGRAMS) $(TESTS) $(BENCHES) $(FUZZERS): $(EXTRA)
	$(if $(V),,@echo "  LINK  $@"; )$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# Installs those of PACKAGES_% that are missing.
build/packages.%: Makefile
	@mkdir -p build
	@flock build/packages.lock .ci/packages $(PACKAGES_$*)
	@touch $@

# The broker for the tests of Kafka, if it can be had.
build/kafka/tried: .ci/kafka .ci/kafka.xml | build/packages.test
	@.ci/kafka $(@D)
	@touch $@

# The servers for the tests of SQS, likewise.
build/sqs/tried: .ci/sqs | build/packages.test
	@.ci/sqs $(@D)
	@touch $@

# Installing. What is built is installed as it is: root does not build in another user's tree. The systemd units name
# the folders that are chosen here; a configuration that is there stays.
PREFIX := /usr/local
DESTDIR :=
SYSCONFDIR := $(if $(filter /usr,$(PREFIX)),/etc,$(PREFIX)/etc)
BINDIR := $(PREFIX)/bin
UNITDIR := $(PREFIX)/lib/systemd/system
COMPLETIONDIR := $(PREFIX)/share/bash-completion/completions
DOCDIR := $(PREFIX)/share/doc/triggerflow
INSTALL_PROGRAM := install -m 755
CONFIGURATION := $(DESTDIR)$(SYSCONFDIR)/triggerflow/config_map.yaml
UNITS := $(wildcard systemd/*.service)
DOCUMENTS := README.md LICENSE $(wildcard docs/*.md) $(shell find examples -type f)
COMPLETED := $(filter $(BUILD)/triggerflow,$(PROGRAMS))
install-strip: INSTALL_PROGRAM += -s
install install-strip:
	@if [ "$$(id -u)" -ne 0 ] || [ -O . ]; then $(MAKE) programs; \
	    else $(MAKE) -q programs || { echo "Not built, or not up to date. As the owner of this folder: make"; exit 1; }; fi
	@$(INSTALL_PROGRAM) -D -t $(DESTDIR)$(BINDIR) $(PROGRAMS)
	@mkdir -p $(DESTDIR)$(UNITDIR)
	@for unit in $(UNITS); do sed 's|/usr/local/etc/|$(SYSCONFDIR)/|g; s|/usr/local/|$(PREFIX)/|g' $$unit \
	    >$(DESTDIR)$(UNITDIR)/$$(basename $$unit) && chmod 644 $(DESTDIR)$(UNITDIR)/$$(basename $$unit) || exit 1; done
	@for file in $(DOCUMENTS); do mode=644; [ ! -x $$file ] || mode=755; \
	    install -D -m $$mode $$file $(DESTDIR)$(DOCDIR)/$$file || exit 1; done
	@for program in $(COMPLETED); do mkdir -p $(DESTDIR)$(COMPLETIONDIR) && \
	    $$program completion bash >$(DESTDIR)$(COMPLETIONDIR)/$$(basename $$program) || exit 1; done
	@[ -e $(CONFIGURATION) ] || install -D -m 644 examples/config_map.yaml $(CONFIGURATION)
	@echo 'Installed in $(DESTDIR)$(PREFIX); the configuration is $(CONFIGURATION)'
uninstall:
	rm -f $(addprefix $(DESTDIR)$(BINDIR)/,$(notdir $(PROGRAMS))) $(DESTDIR)$(COMPLETIONDIR)/triggerflow \
	    $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(UNITS)))
	rm -rf $(DESTDIR)$(DOCDIR)
	@if cmp -s examples/config_map.yaml $(CONFIGURATION); then rm -f $(CONFIGURATION); \
	    rmdir $(dir $(CONFIGURATION)) 2>/dev/null || true; fi
	@[ ! -e $(CONFIGURATION) ] || echo 'The configuration stays: $(CONFIGURATION)'

demo: programs
	@examples/fork-join/run $(BUILD)

# Tests. Reports of sanitizers go to files, so that those of child processes count, too. ThreadSanitizer wants a
# plain address space (setarch -R). Signals are the programs' own: how they die of one is tested.
REPORTS := $(CURDIR)/$(BUILD)/reports
SIGNALS := handle_segv=0:handle_sigbus=0:handle_abort=0:handle_sigill=0:handle_sigfpe=0
TEST_ENV_asan := TRIGGERFLOW_CRASH_BUILD=$(BUILD) TEST_REPORTS=$(REPORTS) TRIGGERFLOW_KILLS=$${TRIGGERFLOW_KILLS:-20} \
    ASAN_OPTIONS=log_path=@REPORTS@/asan:$(SIGNALS) \
    UBSAN_REPORTS=@REPORTS@/ubsan UBSAN_OPTIONS=print_stacktrace=1
TEST_ENV_tsan := TRIGGERFLOW_CRASH_BUILD=$(BUILD) TEST_REPORTS=$(REPORTS) TRIGGERFLOW_KILLS=$${TRIGGERFLOW_KILLS:-10} \
    TEST_WRAPPER="setarch -R" \
    TSAN_OPTIONS=log_path=@REPORTS@/tsan:exitcode=66:die_after_fork=0:second_deadlock_stack=1:$(SIGNALS):suppressions=$(CURDIR)/.ci/tsan.supp
check: programs tests build/kafka/tried build/sqs/tried $(if $(SAN),,crash-programs)
	@$(TEST_ENV_$(SAN)) tests/run $(BUILD)/check $(INTEGRATION_TESTS) $(UNIT_TESTS)
check-asan check-tsan:
	@$(MAKE) SAN=$(@:check-%=%) check
crash-programs: | build/packages.build
	@$(MAKE) SAN=crash programs

lint: lint-format lint-warnings lint-tidy
	@echo 'lint: $(words $(SOURCES)) files, nothing found'
lint-format: | build/packages.lint
	@bad=$$(for f in $(SOURCES); do clang-format --dry-run -Werror $$f 2>/dev/null || echo $$f; done); \
	    [ -z "$$bad" ] || { echo "not formatted (see make format):" $$bad; exit 1; }
lint-warnings: | build/packages.build build/packages.test build/packages.bench
	@$(MAKE) SAN=lint WERROR=1 programs tests benches
lint-tidy: | build/packages.build build/packages.lint
	@printf '%s\n' $(filter-out %.h,$(filter common/% worker/% supervisor/% cli/%,$(SOURCES))) | \
	    xargs -P$$(nproc) -I{} sh -c 'clang-tidy --quiet {} -- $(DEFINES) 2>/dev/null \
	        $$([ {} = common/error.c ] || echo -include .ci/analyzer.h)'
format: | build/packages.lint
	clang-format -i $(SOURCES)

fuzz: | build/packages.fuzz
	@$(MAKE) SAN=fuzz fuzzers
	@mkdir -p build/fuzz/findings
	@printf '%s\n' $(notdir $(FUZZERS)) | xargs -P$$(nproc) -I{} sh -c 'mkdir -p build/fuzz/corpus/{} && \
	    build/fuzz/tests/fuzz/{} -max_total_time=$(SECONDS) -artifact_prefix=build/fuzz/findings/{}- \
	        build/fuzz/corpus/{} $$(ls -d tests/fuzz/corpus/{} 2>/dev/null) >build/fuzz/{}.log 2>&1 && \
	    echo "{}: ok, $$(tail -n1 build/fuzz/{}.log)" || { echo "{}: FAILED"; tail -n 60 build/fuzz/{}.log; exit 1; }'

bench: benches programs build/kafka/tried | build/packages.bench
	@failed=; for bench in $(BENCHES); do echo "$$(basename $$bench):"; $$bench || failed="$$failed $$(basename $$bench)"; \
	    done; [ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

clean:
	rm -rf build

help:
	@echo 'make             builds build/triggerflow-supervisor, build/triggerflow-worker and build/triggerflow'
	@echo 'make demo        runs a workflow of 1,000 functions and kills its worker half-way'
	@echo 'make check       runs every test'
	@echo 'make check-asan  the same with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make check-tsan  the same with ThreadSanitizer'
	@echo 'make lint        format, warnings, clang-tidy'
	@echo 'make fuzz        fuzz targets, SECONDS=30 each'
	@echo 'make bench       speed and memory'
	@echo 'make install     installs what is built: PREFIX=/usr/local, DESTDIR=; also install-strip, uninstall'
	@echo 'make format      formats the sources'
	@echo 'make clean       removes build/'
	@echo 'Variables: SAN=asan|tsan|crash (another build), WERROR=1, V=1 (shows commands), CFLAGS, LDFLAGS'

# Only of this build: another may be writing its own.
-include $(shell find $(BUILD) $(if $(SAN),,\( -path build/asan -o -path build/tsan -o -path build/crash -o -path build/lint \
    -o -path build/fuzz \) -prune -o) -name '*.d' -type f -print 2>/dev/null)
