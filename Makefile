# `make run` and `make test` for those whose fingers type make; everything
# happens in ./radon.
COMMANDS = setup build deb run test test-long bench ci clean
.PHONY: $(COMMANDS)
$(COMMANDS):
	@./radon $@ $(ARGS)
