from gateway.chat.main import main

if __name__ == "__main__":
    raise SystemExit(main())
